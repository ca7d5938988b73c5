"""How far a gripper has come: at its target, stopped by an object, or on its way. Measured, never assumed."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field


class ProgressConfig(BaseModel):
    """What counts as being there, as having stopped, and as having had time to begin."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tolerance: float = Field(0.05, gt=0, le=0.5, description="distance of the gripper to its target [0..1]")
    still: float = Field(
        0.02, gt=0, le=0.2, description="a gripper that moves less within the settle time has stopped [0..1]"
    )
    settle: float = Field(0.1, gt=0, le=2.0, description="how long it must be still to have stopped [s]")
    delay: float = Field(
        0.3, ge=0, le=2.0, description="time a gripper has before it may count as stopped by an object [s]"
    )
    patience: float = Field(
        1.5, ge=0, le=10.0, description="the same for one that has not begun to move at all: it may not have heard [s]"
    )


class GripperProgress:
    """Watches one target at a time. Openings are 0 (closed) .. 1 (open).

    ``now`` [s] may be any clock that does not step; of the measurements' stamps only differences are used.
    """

    def __init__(self, config: ProgressConfig) -> None:
        self.config = config
        self.target: float | None = None
        self.opening: float | None = None  # as measured last; None: not known
        self.moved = False  # towards the target since it was told
        self._told = math.inf  # when the gripper heard of its target
        self._far = 0.0  # largest distance to the target since then
        self._stamp: float | None = None
        self._still: tuple[float, float] | None = None  # opening and stamp since which it is still
        self._changed = -math.inf  # stamp at which it was last seen to move

    def aim(self, opening: float, now: float) -> None:
        """A target, told now. The same again changes nothing; nor does one further on, for a gripper that is stopped by
        an object on its way there."""
        if opening == self.target:
            return
        further = self.stopped(now) and self._is_further(opening)
        self.target = opening
        if not further:
            self.tell(now)

    def tell(self, now: float) -> None:
        """The gripper hears its target (again): it has time to begin from now on. ``math.inf``: nobody heard it."""
        self._told = now
        self.moved = False
        self._far = 0.0

    def measure(self, opening: float, stamp: float) -> None:
        """A measurement; NaN: not known. A stamp before the last: the clock was set back."""
        if not math.isfinite(opening):
            self.forget()
            return
        if self._stamp is not None and stamp < self._stamp:
            self.forget()
        if self._still is None:
            self._still = opening, stamp
        elif abs(opening - self._still[0]) > self.config.still:
            self._still = opening, stamp
            self._changed = stamp
        self.opening, self._stamp = opening, stamp
        if self.target is not None:
            distance = abs(opening - self.target)
            self._far = max(self._far, distance)
            self.moved = self.moved or self._far - distance > self.config.still

    def forget(self) -> None:
        """The opening is not known (any more)."""
        self.opening = self._stamp = self._still = None
        self._changed = -math.inf

    @property
    def moving(self) -> bool:
        """Whether it was seen to move within the settle time."""
        return self._stamp is not None and self._stamp - self._changed < self.config.settle

    @property
    def at_rest(self) -> bool:
        """Whether it was seen to be still for the settle time."""
        if self._still is None or self._stamp is None:
            return False
        return self._stamp - self._still[1] >= self.config.settle

    @property
    def there(self) -> bool:
        if self.target is None or self.opening is None:
            return False
        return abs(self.opening - self.target) <= self.config.tolerance

    def stopped(self, now: float) -> bool:
        """At rest short of its target after having had time to begin: an object keeps it from closing."""
        if self.target is None or self.there or not self.at_rest:
            return False
        needs = self.config.delay if self.moved else max(self.config.delay, self.config.patience)
        return now - self._told >= needs

    def done(self, now: float) -> bool:
        """At its target, or stopped on the way there."""
        return self.there or self.stopped(now)

    def _is_further(self, opening: float) -> bool:
        assert self.target is not None
        assert self.opening is not None
        way = opening - self.opening
        return way * (self.target - self.opening) > 0 and abs(way) > self.config.tolerance
