"""What the rules speak about: the motion that they narrow, and the situation in which they judge it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from openvla_ros import geometry
from openvla_ros.control.safety.arm import JointPath
from openvla_ros.types import Action, ArmState, Array, Pose, RuleReport, StampedAction

_INSIDE = 1e-7  # [rad] that a search ends within a bound
TOLERANCE = (
    1e-9  # a limit is reached, not exceeded, within this (relative to it); far above rounding, far below a motor step
)


@dataclass(frozen=True, slots=True)
class Motion:
    """A step from the anchor: the last accepted target, or the measured pose where there is none.

    translation (3,) [m] and rotvec (3,) [rad] in base axes, as in ``Pose.moved``; duration [s]; gripper 0..1.
    """

    anchor: Pose
    translation: Array
    rotvec: Array
    gripper: float
    duration: float

    def target(self) -> Pose:
        return geometry.moved(self.anchor, self.translation, self.rotvec)

    def with_translation(self, translation: Array) -> Motion:
        return Motion(self.anchor, translation, self.rotvec, self.gripper, self.duration)

    def with_rotvec(self, rotvec: Array) -> Motion:
        return Motion(self.anchor, self.translation, rotvec, self.gripper, self.duration)

    def with_vectors(self, translation: Array, rotvec: Array) -> Motion:
        return Motion(self.anchor, translation, rotvec, self.gripper, self.duration)

    def with_gripper(self, gripper: float) -> Motion:
        return replace(self, gripper=gripper)

    def with_duration(self, duration: float) -> Motion:
        return replace(self, duration=duration)

    def is_finite(self) -> bool:
        values = (*self.translation.tolist(), *self.rotvec.tolist(), self.gripper, self.duration)
        return all(map(math.isfinite, values))


@dataclass(frozen=True, slots=True)
class Accepted:
    """The last action that was passed on. Velocities (3,) of the commanded pose in base axes [m/s], [rad/s]."""

    target: Pose
    linear_velocity: Array
    angular_velocity: Array
    gripper: float
    at: float  # when it was passed on
    until: float  # when its motion is over
    joints: JointPath | None = None  # what it means for the joints, where there is an arm model


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest action that arrived in order."""

    sequence: int
    stamp: float
    observation_stamp: float


@dataclass(frozen=True, slots=True)
class Context:
    """The situation. Everything that a rule may look at; the rules themselves remember nothing."""

    now: float
    arm: ArmState | None  # the newest one, of whatever age
    stop_reason: str = ""  # why the filter is latched; empty: it is not
    active: bool = False  # actions are coming
    accepted: Accepted | None = None  # None: nothing since the start, a stop or a lost arm state
    seen: Seen | None = None
    not_before: float = -math.inf  # observations from before this were made for another situation
    motion_started: float = -math.inf  # start of the ramp-in
    still_actions: int = 0  # how many in a row asked for nothing
    heartbeat: float = -math.inf  # the operator's last one
    e_stop_heard: float = -math.inf  # the stop button's last word, of whatever level
    camera_heard: float = -math.inf  # the policy's last word that it sees
    arrivals: Sequence[float] = ()  # when the newest actions came, oldest first

    @property
    def interval(self) -> float:
        """Seconds since the last accepted action."""
        return math.inf if self.accepted is None else self.now - self.accepted.at

    def time_for(self, motion: Motion) -> float:
        """The time [s] this motion really has: its duration, or since the last command where that is less."""
        return min(motion.duration, self.interval)

    def velocities(self) -> tuple[Array, Array]:
        """(3,), (3,) of the commanded pose now: zero once the last motion is over."""
        if self.accepted is None or self.now >= self.accepted.until:
            return np.zeros(3), np.zeros(3)
        return self.accepted.linear_velocity, self.accepted.angular_velocity


class Refused(Exception):
    """The action cannot be made safe by narrowing it. ``hold``: the arm must stop as well."""

    def __init__(self, *reports: RuleReport, hold: bool = False) -> None:
        super().__init__("; ".join(report.detail for report in reports))
        self.reports = reports
        self.hold = hold


class Gate(Protocol):
    """Judges an action before it becomes a motion. Any report refuses it; raising Refused spares the gates after it."""

    def __call__(self, action: StampedAction, context: Context) -> list[RuleReport]: ...


class Limit(Protocol):
    """Narrows a motion, towards no motion, and reports it; returns the very same object when there is nothing to do.

    Runs again until no limit has anything left to do, so that a later one cannot undo an earlier one.
    """

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]: ...


class Monitor(Protocol):
    """Watches the arm at every tick. A report stops it, latched, and stands in the way of a reset while it persists.

    Those of ``rules.PAUSES`` only make it hold, and only while they report.
    """

    def __call__(self, context: Context) -> RuleReport | None: ...


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a joint path must not be. ``measure`` reads off any path the number that is judged."""

    code: str
    detail: str
    limit: float
    measure: Callable[[JointPath], float]


class ArmRule(Protocol):
    """Judges a joint path that reaches its target. None: nothing against it."""

    def __call__(self, path: JointPath, context: Context) -> Objection | None: ...


def length(vector: Array) -> float:
    """Euclidean norm of (3,), without the overflow of squaring."""
    return math.hypot(*vector.tolist())


def scaled_to(vector: Array, limit: float) -> Array | None:
    """``vector`` (3,) with its direction and at most ``limit`` long; None when it is that already."""
    norm = length(vector)
    return None if norm <= limit * (1 + TOLERANCE) else vector * (limit / norm)


def silence(code: str, detail: str, heard: float, timeout: float | None, now: float) -> RuleReport | None:
    """What a monitor says when nothing was heard for longer than ``timeout`` [s]; None: it may be silent."""
    if timeout is None or now - heard <= timeout:
        return None
    return RuleReport(code, detail, now - heard, 0.0, timeout)


def limit_lengths(
    motion: Motion, code: str, metres: float, radians: float, why: str
) -> tuple[Motion, list[RuleReport]]:
    """Scales translation and rotation to their limits, each by itself, keeping their directions."""
    reports = []
    translation = scaled_to(motion.translation, metres)
    if translation is not None:
        asked = length(motion.translation)
        reports.append(RuleReport(code, f"translation [m] scaled: {why}", asked, metres, metres))
        motion = motion.with_translation(translation)
    rotvec = scaled_to(motion.rotvec, radians)
    if rotvec is not None:
        asked = length(motion.rotvec)
        reports.append(RuleReport(code, f"rotation [rad] scaled: {why}", asked, radians, radians))
        motion = motion.with_rotvec(rotvec)
    return motion, reports


def largest_share(allowed: Callable[[float], bool]) -> float:
    """The largest share in [0, 1] of a step that is ``allowed``, to 1e-6, by bisection; 0 is taken to be allowed."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


def share_until(excess: Callable[[float], float]) -> float:
    """The share in [0, 1] of a step at which a smooth ``excess``, above 0 at 1, is 0; 0 where it is so from the start.

    To 1e-7 of its value, from below, by false position (Illinois): a few evaluations where bisection takes twenty.
    """
    low, high, below, above = 0.0, 1.0, excess(0.0) + _INSIDE, excess(1.0) + _INSIDE
    if below >= 0:
        return 0.0
    side = 0
    for _ in range(20):
        share = (low * above - high * below) / (above - below)
        value = excess(share) + _INSIDE
        if value > 0:
            high, above = share, value
            below = below / 2 if side > 0 else below
            side = 1
        else:
            low, below = share, value
            above = above / 2 if side < 0 else above
            side = -1
            if value > -_INSIDE:
                break
    return low


def to_action(motion: Motion) -> Action:
    """The motion as the action that asks for just it."""
    return Action(motion.translation, geometry.to_rpy(geometry.from_rotvec(motion.rotvec)), motion.gripper)
