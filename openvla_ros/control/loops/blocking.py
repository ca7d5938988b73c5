"""Blocking control: the next inference begins after the arm has measurably arrived, on an image taken after that."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from openvla_ros.control.loops.base import BaseLoop, LoopConfig, Wait
from openvla_ros.types import ArmState, Outcome

ENDED = frozenset({Outcome.ARRIVED, Outcome.TIMED_OUT, Outcome.REFUSED, Outcome.HELD})


Report = tuple[int, Outcome, float]  # action sequence, outcome, outcome stamp: what the driver said


@dataclass(frozen=True, slots=True)
class _Sent:
    """The action whose outcome is awaited, when it went out, and what the driver had said before."""

    action_sequence: int
    at: float
    before: Report


class Blocking(BaseLoop):
    """Waits for what became of each action: ARRIVED, or an explicit other outcome, which is counted.

    No inference begins while the driver executes anything, nor on an image from before its last motion ended. An action
    that the safety filter refuses moves nothing: the next try is on a new image, in the next period. One of which
    nothing is heard at all (a restarted driver, a lost message) counts as lost after a while.
    """

    def __init__(self, config: LoopConfig) -> None:
        super().__init__(config)
        self._sent: _Sent | None = None
        self._said: Report = (0, Outcome.NONE, -math.inf)

    def start(self, now: float, instruction: str) -> None:
        super().start(now, instruction)
        self._sent = None

    def on_arm_state(self, state: ArmState, action_sequence: int, outcome: Outcome, outcome_stamp: float) -> None:
        super().on_arm_state(state, action_sequence, outcome, outcome_stamp)
        self._said = (action_sequence, outcome, outcome_stamp)
        if self._sent is None or outcome not in ENDED:
            return
        ours = action_sequence == self._sent.action_sequence
        # A HOLD that no action caused ends ours as well, unless the driver had said so before ours went out.
        held = outcome is Outcome.HELD and action_sequence == 0 and self._said != self._sent.before
        if ours or held:
            self._outcomes[outcome] += 1
            self._sent = None

    def on_verdict(self, action_sequence: int, refused: bool, now: float) -> None:
        super().on_verdict(action_sequence, refused, now)
        if refused and self._sent is not None and action_sequence == self._sent.action_sequence:
            self._sent = None

    def _delivered(self, action_sequence: int, now: float) -> None:
        self._sent = _Sent(action_sequence, now, self._said)

    def _stepped_back(self, now: float) -> None:
        super()._stepped_back(now)
        if self._sent is not None:
            self._sent = replace(self._sent, at=now)

    def _blocked(self, now: float) -> Wait | None:
        said_sequence, outcome, ended = self._said
        if outcome is Outcome.EXECUTING:
            return Wait("waiting_for_arrival", f"the arm executes action {said_sequence}")
        if self._sent is not None:
            waited, number = now - self._sent.at, self._sent.action_sequence
            if waited <= self._config.outcome_timeout:
                return Wait(
                    "waiting_for_arrival", f"action {number} went out {waited:.2f} s ago and has no outcome yet"
                )
            self._counts["lost"] += 1
            self._sent, self._images_after = None, now
        from_this_clock = ended <= now + self._config.future_tolerance
        if outcome in ENDED and from_this_clock and (self._frame is None or self._frame.stamp <= ended):
            return Wait("waiting_for_image_after_arrival", "no image from after the end of the last motion yet")
        return None
