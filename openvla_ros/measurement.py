"""Joint positions that an arm cannot have: a failed read, a second publisher, an encoder that slipped.

Such a measurement counts as missing: it is never where a motion starts, nor where a hold goes to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openvla_ros.types import Array

_RANGE_SLACK = 0.15  # [rad] that a joint may be read beyond its range: calibration, a limit that was pushed against
_SPEED_MARGIN = 1.5  # times a joint's speed limit: stamps are not exact
_NOISE = 0.05  # [rad] on top: a message that came late, under the stamp of another
_LARGEST_LEAP = 0.4  # [rad] that is believed after a gap, however long
_ELSEWHERE = 0.3  # [s] that consistent measurements from elsewhere take until they are believed


@dataclass(frozen=True, slots=True)
class Judgement:
    """``problem``: why the measurement counts as missing, if it does. ``leapt``: the arm is known to be elsewhere."""

    problem: str = ""
    leapt: bool = False


class Plausibility:
    """Judges one measurement after another by the joints' ranges and speeds.

    names: n joints; lower, upper: (n,) [rad]; max_velocity: (n,) [rad/s]. An arm that really is elsewhere (moved while
    its driver was off, a simulation that was reset) is believed after a while of consistent measurements, and that is
    told (``leapt``): whoever commanded it before has to start anew.
    """

    def __init__(self, names: tuple[str, ...], lower: Array, upper: Array, max_velocity: Array) -> None:
        self._names, self._lower, self._upper, self._max_velocity = names, lower, upper, max_velocity
        self._last: tuple[Array, float] | None = None
        self._other: tuple[Array, float] | None = None  # the newest of those that come from elsewhere
        self._other_since = 0.0

    def judge(self, q: Array, stamp: float) -> Judgement:
        """q: (n,) [rad]; stamp [s]: rising from call to call."""
        if not (np.isfinite(q).all() and np.isfinite(stamp)):
            return Judgement(f"joint positions {q.tolist()} rad at {stamp} s are not finite")
        beyond = np.maximum(self._lower - q, q - self._upper)
        worst = int(beyond.argmax())
        if beyond[worst] > _RANGE_SLACK:
            span = f"{self._lower[worst]:.2f} .. {self._upper[worst]:.2f}"
            return Judgement(f"{self._names[worst]} at {q[worst]:.2f} rad is outside its range {span}")
        if self._last is None or not (leap := self._leap(q, stamp, *self._last)):
            self._last, self._other = (q, stamp), None
            return Judgement()
        if self._other is None or self._leap(q, stamp, *self._other):
            self._other_since = stamp
        self._other = q, stamp
        if stamp - self._other_since < _ELSEWHERE:
            return Judgement(leap)
        self._last, self._other = (q, stamp), None
        return Judgement(leapt=True)

    def forget(self) -> None:
        """Whatever comes next is believed."""
        self._last = self._other = None

    def _leap(self, q: Array, stamp: float, before: Array, then: float) -> str:
        """Why q cannot follow; empty if it can."""
        most = np.minimum(_NOISE + _SPEED_MARGIN * self._max_velocity * max(stamp - then, 0.0), _LARGEST_LEAP)
        excess = abs(q - before) - most
        worst = int(excess.argmax())
        if excess[worst] <= 0:
            return ""
        moved, within = abs(q - before)[worst], stamp - then
        return f"{self._names[worst]} leapt by {moved:.2f} rad within {within:.3f} s, which it cannot"
