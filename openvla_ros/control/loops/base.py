"""What both control modes share: which image, which instruction, one inference at a time, which results to drop."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from openvla_ros.types import ArmState, Outcome

# Waits that belong to normal control; all others are something that a person should know of.
EXPECTED = frozenset({"inferring", "next_period", "waiting_for_arrival", "waiting_for_image_after_arrival"})


class LoopConfig(BaseModel):
    """Parameters of both control loops."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    control_hz: float = Field(5.0, gt=0, le=100, description="highest rate of control steps [Hz]; 5 for Bridge")
    motion_duration: float = Field(0.2, gt=0, le=10, description="time that one action is meant for [s]")
    image_max_age: float = Field(0.5, gt=0, le=10, description="oldest image to infer on [s]")
    arm_state_max_age: float = Field(0.5, gt=0, le=10, description="oldest arm state to go on with [s]")
    future_tolerance: float = Field(0.05, ge=0, le=1, description="how far ahead of this clock a stamp may lie [s]")
    frozen_repeats: int = Field(
        10,
        ge=0,
        le=10000,
        description="a picture that comes again so many times is a frozen camera's, whatever its stamps: real sensors "
        "have noise; 0: off, for a simulated camera",
    )
    outcome_timeout: float = Field(
        10.0, gt=0, le=300, description="blocking: wait for an action's outcome, after which it counts as lost [s]"
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """An image. ``stamp``: when the camera took it; ``received``: when it came in [s]; ``data``: not looked at here.

    ``fingerprint``: the same for the same picture, None where that is not known.
    """

    stamp: float
    received: float
    data: Any
    fingerprint: int | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """An inference is to begin now. ``ticket`` goes back with its result."""

    frame: Frame
    instruction: str
    ticket: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to begin now. ``reason``: a code; ``detail``: for people; ``until``: when to ask again [s]."""

    reason: str
    detail: str
    until: float | None = None

    @property
    def expected(self) -> bool:
        """Whether this belongs to normal control."""
        return self.reason in EXPECTED


@dataclass(frozen=True, slots=True)
class LoopReport:
    """How control went since ``start``. ``waits`` counts how often each reason began; ``outcomes`` is blocking's."""

    steps: int  # inferences begun
    achieved_hz: float  # of the last steps; 0 before the second
    delivered: int  # results passed on
    dropped: int  # results whose instruction or episode had changed
    failed: int  # inferences without a result
    refused: int  # actions that the safety filter refused
    lost: int  # actions of which nothing was heard again
    outcomes: Mapping[Outcome, int]
    waits: Mapping[str, int]


class ControlLoop(Protocol):
    """Decides when an inference begins, and on what. ``now`` [s] is the clock of the stamps. One caller at a time."""

    @property
    def report(self) -> LoopReport: ...

    def start(self, now: float, instruction: str) -> None: ...

    def stop(self, now: float) -> None: ...

    def on_instruction(self, text: str, now: float) -> None: ...

    def on_frame(self, frame: Frame) -> bool: ...

    def on_arm_state(self, state: ArmState, action_sequence: int, outcome: Outcome, outcome_stamp: float) -> None: ...

    def on_verdict(self, action_sequence: int, refused: bool, now: float) -> None: ...

    def poll(self, now: float) -> Start | Wait: ...

    def on_result(self, ticket: int, action_sequence: int | None, now: float) -> bool: ...


class BaseLoop(ABC):
    """The common part. A mode adds ``_blocked``: what else, beside image and arm state, it waits for."""

    def __init__(self, config: LoopConfig) -> None:
        self._config = config
        self._period = 1.0 / config.control_hz
        self._running = False
        self._instruction = ""
        self._frame: Frame | None = None
        self._repeats = 0  # of its picture
        self._arm: ArmState | None = None
        self._now = -math.inf
        self._tickets = 0
        self._in_flight: int | None = None  # its ticket; it occupies the one worker until its result comes
        self._valid: int | None = None  # the ticket whose result is still wanted
        self._begin(-math.inf)

    def _begin(self, now: float) -> None:
        self._due = -math.inf
        self._used_stamp: float | None = None  # of the last image inferred on
        self._images_after = now  # older images show another situation
        self._starts: deque[float] = deque(maxlen=32)
        self._counts: Counter[str] = Counter()
        self._outcomes: Counter[Outcome] = Counter()
        self._waits: Counter[str] = Counter()
        self._last_wait = ""

    @property
    def report(self) -> LoopReport:
        span = self._starts[-1] - self._starts[0] if len(self._starts) > 1 else 0.0
        return LoopReport(
            steps=self._counts["steps"],
            achieved_hz=(len(self._starts) - 1) / span if span > 0 else 0.0,
            delivered=self._counts["delivered"],
            dropped=self._counts["dropped"],
            failed=self._counts["failed"],
            refused=self._counts["refused"],
            lost=self._counts["lost"],
            outcomes=dict(self._outcomes),
            waits=dict(self._waits),
        )

    def start(self, now: float, instruction: str) -> None:
        """Begins control, on images from now on. An inference still in flight is not wanted any more."""
        self._valid = None
        self._now = now
        self._running, self._instruction = True, instruction.strip()
        self._begin(now)

    def stop(self, now: float) -> None:
        self._running, self._valid = False, None

    def on_instruction(self, text: str, now: float) -> None:
        """A changed instruction makes the inference in flight worthless; the same one again changes nothing."""
        if text.strip() != self._instruction:
            self._instruction, self._valid = text.strip(), None

    def on_frame(self, frame: Frame) -> bool:
        """The newest image. Whether it shows the present: newer than the one before, recent, no frozen camera's."""
        last, self._frame = self._frame, frame
        same = last is not None and last.fingerprint is not None and frame.fingerprint == last.fingerprint
        self._repeats = self._repeats + 1 if same else 0
        newer = last is None or frame.stamp > last.stamp
        return newer and self._age_problem(frame.received) is None and not self._is_frozen()

    def on_arm_state(self, state: ArmState, action_sequence: int, outcome: Outcome, outcome_stamp: float) -> None:
        self._arm = state

    def on_verdict(self, action_sequence: int, refused: bool, now: float) -> None:
        self._counts["refused"] += refused

    def poll(self, now: float) -> Start | Wait:
        """What is to happen now. A Start is given once: its inference counts as begun."""
        self._take_time(now)
        wait = self._obstacle(now)
        if wait is None:
            self._last_wait = ""
            return self._start_inference(now)
        if wait.reason != self._last_wait:
            self._waits[wait.reason] += 1
            self._last_wait = wait.reason
        return wait

    def on_result(self, ticket: int, action_sequence: int | None, now: float) -> bool:
        """The inference of ``ticket`` is over, without a result if ``action_sequence`` is None. False: drop it."""
        if ticket != self._in_flight:
            return False
        self._in_flight = None
        wanted = self._running and ticket == self._valid
        if not wanted:
            self._counts["dropped"] += 1
        elif action_sequence is None:
            self._counts["failed"] += 1
        else:
            self._counts["delivered"] += 1
            self._delivered(action_sequence, now)
            return True
        return False

    @abstractmethod
    def _blocked(self, now: float) -> Wait | None:
        """What this mode waits for, None if nothing."""

    def _delivered(self, action_sequence: int, now: float) -> None:  # noqa: B027  a mode that does not wait has no use for it
        """An action goes out."""

    def _stepped_back(self, now: float) -> None:
        """The clock went backwards: what was stamped before means nothing any more."""
        self._valid = None
        self._frame = self._arm = self._used_stamp = None
        self._due, self._images_after = -math.inf, now
        self._starts.clear()

    def _take_time(self, now: float) -> None:
        if now < self._now - self._config.future_tolerance:
            self._stepped_back(now)
        self._now = now

    def _obstacle(self, now: float) -> Wait | None:
        if not self._running:
            return Wait("not_running", "control has not been started")
        if not self._instruction:
            return Wait("no_instruction", "no instruction: publish one on the instruction topic")
        if self._in_flight is not None:
            return Wait("inferring", "an inference is under way")
        return self._arm_obstacle(now) or self._blocked(now) or self._image_obstacle(now) or self._early(now)

    def _arm_obstacle(self, now: float) -> Wait | None:
        if self._arm is None:
            return Wait("no_arm_state", "no arm state: is the arm driver running?")
        age, limit = now - self._arm.stamp, self._config.arm_state_max_age
        if -self._config.future_tolerance <= age <= limit:
            return None
        return Wait("stale_arm_state", f"arm state is {age:.3f} s old, allowed are 0 to {limit} s")

    def _image_obstacle(self, now: float) -> Wait | None:
        if self._frame is None:
            return Wait("no_image", "no image yet: is the camera running?")
        stale = self._age_problem(now)
        if stale is not None:
            return stale
        if self._is_frozen():
            detail = f"the camera sent the very same picture {self._repeats + 1} times: it is frozen, or covered"
            return Wait("frozen_image", detail)
        if self._frame.stamp <= self._images_after:
            return Wait("no_image", "no image from after the start of control yet")
        if self._used_stamp is not None and self._frame.stamp <= self._used_stamp:
            return Wait("same_image", "no new image since the last inference: one image never drives the arm twice")
        return None

    def _age_problem(self, now: float) -> Wait | None:
        assert self._frame is not None
        age, limit = now - self._frame.stamp, self._config.image_max_age
        if -self._config.future_tolerance <= age <= limit:
            return None
        return Wait("stale_image", f"newest image is {age:.3f} s old, allowed are 0 to {limit} s")

    def _is_frozen(self) -> bool:
        return 0 < self._config.frozen_repeats <= self._repeats

    def _early(self, now: float) -> Wait | None:
        if now >= self._due:
            return None
        return Wait("next_period", f"the next step is due in {self._due - now:.3f} s", self._due)

    def _start_inference(self, now: float) -> Start:
        assert self._frame is not None
        # Small lateness keeps the grid of periods; beyond it the grid moves, so that nothing is ever caught up.
        late = now - self._due
        self._due = (self._due if late <= 0.1 * self._period else now) + self._period
        self._tickets += 1
        self._in_flight = self._valid = self._tickets
        self._used_stamp = self._frame.stamp
        self._counts["steps"] += 1
        self._starts.append(now)
        return Start(self._frame, self._instruction, self._tickets)
