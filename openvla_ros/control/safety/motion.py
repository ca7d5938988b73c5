"""What the rules speak about: the motion that they narrow, and the situation in which they judge it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from openvla_ros import geometry
from openvla_ros.control.safety.arm import JointPath
from openvla_ros.control.safety.course import Course, Step
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Action, ArmState, Array, Pose, RuleReport, StampedAction

_INSIDE = 1e-7  # [rad] that a search ends within a bound
TOLERANCE = (
    1e-9  # a limit is reached, not exceeded, within this (relative to it); far above rounding, far below a motor step
)


@dataclass(frozen=True, slots=True)
class Motion:
    """A step from the anchor: the last accepted target, or where the arm's reference rests.

    translation (3,) [m] and rotvec (3,) [rad] in base axes, as in ``Pose.moved``; gripper 0..1; it begins at ``start``
    [s] and takes ``duration`` [s], the smoothing apart.
    """

    anchor: Pose
    translation: Array
    rotvec: Array
    gripper: float
    start: float
    duration: float

    def target(self) -> Pose:
        return geometry.moved(self.anchor, self.translation, self.rotvec)

    def step(self) -> Step:
        return Step(self.translation, self.rotvec, self.start, self.duration)

    def with_translation(self, translation: Array) -> Motion:
        return self.with_vectors(translation, self.rotvec)

    def with_rotvec(self, rotvec: Array) -> Motion:
        return self.with_vectors(self.translation, rotvec)

    def with_vectors(self, translation: Array, rotvec: Array) -> Motion:
        return Motion(self.anchor, translation, rotvec, self.gripper, self.start, self.duration)

    def with_start(self, start: float) -> Motion:
        return replace(self, start=start)

    def asks_the_same(self, other: Motion) -> bool:
        """Whether it differs in nothing but its start."""
        return (
            self.translation is other.translation
            and self.rotvec is other.rotvec
            and self.gripper == other.gripper
            and self.duration == other.duration
        )

    def with_gripper(self, gripper: float) -> Motion:
        return replace(self, gripper=gripper)

    def with_duration(self, duration: float) -> Motion:
        return replace(self, duration=duration)

    def is_finite(self) -> bool:
        values = (*self.translation.tolist(), *self.rotvec.tolist(), self.gripper, self.duration)
        return all(map(math.isfinite, values))


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was passed on last, and with it all that the arm is commanded to do."""

    course: Course
    gripper: float
    at: float  # when it was passed on
    trajectory: Trajectory | None = None  # what it means for the joints, where there is an arm model

    @property
    def target(self) -> Pose:
        return self.course.target()

    @property
    def until(self) -> float:
        """When the arm is at rest."""
        return self.course.end


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
    start: float = 0.0  # when what is decided now takes effect
    window: float = 0.1  # of the smoothing [s]
    rest: Array | None = None  # (n,) joints at which the arm's reference rests, where nothing was accepted
    paused: bool = False  # re-armed: nothing moves without a deliberate act since ...
    paused_at: float = -math.inf  # ... this time
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

    def course(self, motion: Motion) -> Course:
        """What was commanded before a motion is added, as far as it is not over."""
        if self.accepted is None:
            return Course(motion.anchor, self.window)
        course = self.accepted.course
        return course.since(self.now) if course.end > self.start else Course(course.target(), self.window)

    def commanded(self, motion: Motion) -> Pose:
        """Where the end effector is commanded to be now."""
        return motion.anchor if self.accepted is None else self.accepted.course.at(self.now)


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
