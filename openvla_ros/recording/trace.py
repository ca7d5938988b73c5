"""What happened in a graph, as plain values: one record an action, and the measured path. Fed with messages, live ones
of rclpy or those of a bag."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros import messages
from openvla_ros.errors import RecordingError
from openvla_ros.images import RGB
from openvla_ros.types import Action, ArmState, Array, Command, Pose, RuleReport

HOPS = (
    # name, from stamp, to stamp
    ("camera -> policy", "image", "image_received"),
    ("image waits for its turn", "image_received", "inference_started"),
    ("inference", "inference_started", "inference_ended"),
    ("policy -> filter", "inference_ended", "filter_received"),
    ("safety filter", "filter_received", "decided"),
    ("filter -> driver", "decided", "driver_received"),
    ("driver: check, to controller", "driver_received", "command_sent"),
    ("arm moves", "command_sent", "outcome"),
)

# By the numbers of msg/SafetyStatus.msg and msg/ArmState.msg.
VERDICTS = {1: "accepted", 2: "limited", 3: "refused"}
STATES = {0: "waiting", 1: "active", 2: "holding", 3: "STOPPED", 4: "paused"}
ARRIVED = 2
OUTCOMES = {2: "arrived", 3: "timed out", 4: "refused by the driver", 5: "held"}


@dataclass(frozen=True)
class TraceFrame:
    """A camera image as recorded; decoded when asked for. ``stamp``: when it was taken, seconds of the ROS clock."""

    stamp: float
    message: Any

    def rgb(self) -> RGB:
        """(H, W, 3) uint8. Raises images.ImageError."""
        return messages.rgb(self.message)


@dataclass
class TraceStep:
    """One action on its way.

    raw: what the policy asked for; label: what a demonstrator would have, where one was asked; filtered: what the
    safety filter passed on, None where it refused; command: what became of it; state: the newest arm state that is not
    younger than the image. stamps: seconds of the ROS clock by the names that HOPS uses, as far as the action came.
    frames: by camera topic, None where the image is missing.
    """

    sequence: int
    instruction: str = ""
    mode: str = ""
    episode_id: str = ""
    unnorm_key: str = ""
    duration: float = float("nan")
    raw: Action | None = None
    label: Action | None = None
    filtered: Action | None = None
    command: Command | None = None
    state: ArmState | None = None
    normalized: Array | None = None
    token_ids: NDArray[np.int64] | None = None
    verdict: str = ""
    reasons: tuple[RuleReport, ...] = ()
    outcome: str = ""
    stamps: dict[str, float] = field(default_factory=dict)
    frames: dict[str, TraceFrame | None] = field(default_factory=dict)

    def span(self, start: str, end: str) -> float | None:
        """Seconds between two stamps, None if the action did not come that far."""
        if start in self.stamps and end in self.stamps:
            return self.stamps[end] - self.stamps[start]
        return None

    @property
    def image(self) -> RGB:
        """(H, W, 3) uint8, what the policy saw: of the first camera. Raises RecordingError where it is missing."""
        frame = next(iter(self.frames.values()), None)
        if frame is None:
            raise RecordingError(f"the image behind action {self.sequence} is not in the bag")
        return frame.rgb()


@dataclass
class Sample:
    """Commanded and measured pose at one time [s of the ROS clock]."""

    state: ArmState
    commanded: Pose | None
    commanded_gripper: float = float("nan")  # of the last step that the driver got; its message has only the pose

    @property
    def time(self) -> float:
        return self.state.stamp

    @property
    def measured(self) -> Pose:
        return self.state.pose

    @property
    def gripper(self) -> float:
        return self.state.gripper


@dataclass
class Trace:
    """Everything that a report needs. ``keep_samples``: off, the path is not kept, nor what is computed from it."""

    keep_samples: bool = True
    steps: dict[int, TraceStep] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)  # (mode, rule) -> actions
    events: list[tuple[float, str]] = field(default_factory=list)  # (time, what the operator did)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # mode -> time in control
    images: int = 0
    _gripper: float = float("nan")

    # ---- filling it

    def on_action(self, message: Any, mode: str = "") -> None:
        """A DeltaAction. ``mode``: the control mode that a new step is filed under, here and below."""
        step = self._step(int(message.sequence), mode)
        step.instruction = message.instruction
        step.episode_id = message.episode_id
        step.unnorm_key = message.unnorm_key
        step.duration = messages.seconds(message.duration)
        step.raw = messages.action(message)
        step.normalized = np.array(message.normalized, dtype=np.float64)
        step.token_ids = np.array(message.token_ids, dtype=np.int64)
        step.stamps["image"] = messages.seconds(message.header.stamp)
        for name in ("image_received", "inference_started", "inference_ended"):
            step.stamps[name] = messages.seconds(getattr(message, name))

    def on_label(self, message: Any, mode: str = "") -> None:
        """A DeltaAction of ``action_label``: a demonstrator's answer to the same image."""
        self._step(int(message.sequence), mode).label = messages.action(message)

    def on_command(self, message: Any, mode: str = "") -> None:
        """A SafeCommand."""
        if message.action_sequence:
            step = self._step(int(message.action_sequence), mode)
            step.command = messages.command(message)
            step.stamps["filter_received"] = messages.seconds(message.action_received)
            step.stamps["decided"] = messages.seconds(message.decided)

    def on_status(self, message: Any, mode: str = "") -> None:
        """A SafetyStatus."""
        if message.verdict in VERDICTS:
            step = self._step(int(message.action_sequence), mode)
            step.verdict = VERDICTS[message.verdict]
            step.reasons = messages.reports(message)
            filtered = np.array(message.filtered_action)
            step.filtered = None if np.isnan(filtered).any() else Action.from_array(filtered)
            self.reasons.update((step.mode, r.rule) for r in step.reasons)

    def on_arm_state(self, message: Any) -> None:
        """An ArmState."""
        # A hold command answers no action; its outcome is not that of a step.
        step = self.steps.get(int(message.action_sequence))
        if self.keep_samples:
            if step is not None and step.command is not None:
                self._gripper = step.command.gripper
            commanded = messages.pose(message.target) if message.command_sequence else None
            self.samples.append(Sample(messages.arm_state(message), commanded, self._gripper))
        if step is None or step.outcome:
            return
        step.stamps.setdefault("driver_received", messages.seconds(message.command_received))
        step.stamps.setdefault("command_sent", messages.seconds(message.command_sent))
        if message.outcome in OUTCOMES:
            step.outcome = OUTCOMES[message.outcome]
            if message.outcome == ARRIVED:
                step.stamps["outcome"] = messages.seconds(message.outcome_stamp)

    def _step(self, sequence: int, mode: str) -> TraceStep:
        return self.steps.setdefault(sequence, TraceStep(sequence, mode=mode))

    # ---- reading it

    def state_at(self, stamp: float) -> ArmState | None:
        """The newest kept arm state that is not younger than ``stamp`` [s]."""
        index = bisect_right(self.samples, stamp, key=lambda s: s.time)
        return self.samples[index - 1].state if index else None

    def of_mode(self, mode: str | None) -> list[TraceStep]:
        """The steps of a control mode, None for all."""
        return [s for s in self.steps.values() if mode is None or s.mode == mode]

    def achieved_hz(self, mode: str) -> float:
        """Actions a second while this mode was in control."""
        return len(self.of_mode(mode)) / self.seconds[mode] if self.seconds[mode] else 0.0

    def hop(self, mode: str | None, start: str, end: str) -> Array:
        """(n,) seconds of one hop over all actions of a mode (None: of any) that made it."""
        spans = [s.span(start, end) for s in self.of_mode(mode)]
        return np.array([s for s in spans if s is not None])

    def tracking_error(self) -> Array:
        """(n,) distance [m] between commanded and measured end-effector position."""
        return np.array(
            [
                np.linalg.norm(s.commanded.position - s.measured.position)
                for s in self.samples
                if s.commanded is not None
            ]
        )


def percentiles(values: Array) -> tuple[float, float] | None:
    """(p50, p99) in ms of seconds, None without values."""
    if not len(values):
        return None
    p50, p99 = np.percentile(values, [50, 99]) * 1e3
    return float(p50), float(p99)
