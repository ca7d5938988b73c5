"""When a gripper is told what: until it is measured to have heard, and again when it has forgotten. Never a stream.

A gripper's command is one message. It is lost where the gripper's controller is not there yet, and void where the
controller, or the simulation, starts again. A pure state machine with an injected clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from openvla_ros.drive.grippers.progress import GripperProgress, ProgressConfig
from openvla_ros.types import Outcome


class KeeperConfig(BaseModel):
    """How often a gripper is told, and what counts as heard."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    progress: ProgressConfig = Field(default_factory=ProgressConfig)
    repeat: float = Field(0.5, ge=0.1, le=5.0, description="time between two sends of the same target [s]")
    tries: int = Field(6, ge=1, le=100, description="sends of the same target before that is given up")
    min_interval: float = Field(0.1, ge=0.02, le=1.0, description="shortest time between any two sends but a stop [s]")
    leave: float = Field(
        0.1,
        gt=0,
        le=0.5,
        description="a gripper that is so much further from its target than it came has left it [0..1]",
    )
    idle_after: float = Field(
        1.0, gt=0, le=3600.0, description="time without a command after which one that left waits for the next [s]"
    )
    max_age: float = Field(0.2, gt=0, le=1.0, description="older measurements count as none [s]")
    stop_age: float = Field(0.05, gt=0, le=0.2, description="oldest measurement to stop a gripper at [s]")
    full_travel: float = Field(0.2, gt=0, le=5.0, description="shortest time for the way from open to closed [s]")
    stop_duration: float = Field(0.1, gt=0, le=1.0, description="time given to a gripper to stop in [s]")


@dataclass(frozen=True, slots=True)
class GripperMotion:
    """What to send: an opening 0 (closed) .. 1 (open), to be reached within duration [s].

    stop: a gripper that takes goals may cancel its goal instead of taking this one.
    """

    opening: float
    duration: float
    stop: bool = False


class GripperKeeper:
    """Keeps a gripper at its target. ``now`` is a steady clock [s] everywhere.

    Send what ``tick`` gives, after any of ``command``, ``hold``, ``on_measured``, ``on_listeners``, and at 20 Hz or
    more. ``progress`` is there for Arrival: what has become of the target is judged once.
    """

    def __init__(self, config: KeeperConfig) -> None:
        self._config = config
        self.progress = GripperProgress(config.progress)
        self.problem = ""  # for people: why the gripper is not where it was told to go
        self._target: float | None = None  # as commanded
        self._duration = 0.0
        self._commanded = -math.inf
        self._listeners: int | None = None  # None: nobody counts them
        self._measured = -math.inf
        self._urgent = False  # new, to the gripper or to one who listens: not to wait for the next repetition
        self._waiting = -math.inf  # since when nobody listens to what is to be sent
        self._sent = -math.inf
        self._sent_stop = False  # the last that was sent is a stop
        self._tries = 0
        self._rest: float | None = None  # where it came to; None: on its way
        self._left = False  # the target, and nobody commands at present
        self._holding = False
        self._stop = False  # wanted, and not sent yet
        self._stopped: float | None = None  # where the hold found it
        self._stops = 0

    def command(self, opening: float, duration: float, now: float) -> None:
        """A target, also the one that there is: the commander still wants it. Ends a hold.

        Raises ValueError for an opening outside 0..1 or a duration that is not above 0, NaN included.
        """
        if not 0.0 <= opening <= 1.0:
            raise ValueError(f"the gripper's target is {opening}, allowed are 0 (closed) to 1 (open)")
        if not 0.0 < duration < math.inf:
            raise ValueError(f"the gripper's duration is {duration} s, it must be finite and above 0")
        new = opening != self._target or opening != self.progress.target  # also after a stop on the way there
        self._target, self._duration, self._commanded = opening, duration, now
        self._holding = self._stop = False
        self.progress.aim(opening, now)
        if new:
            self._urgent, self._waiting = True, now
            if not self.progress.stopped(now):  # else: it pulls at an object, and goes on pulling
                self.progress.tell(math.inf)
        if new or self._left:
            self._begin()

    def hold(self, now: float) -> None:
        """Stop: a gripper on its way stops where it is measured. One that rests is left alone: it may hold an object,
        and a target where it is measured would let go of it. Nothing is sent again before the next command."""
        if self._target is None or self._holding:
            return
        self._look(now)
        self._holding, self._stop = True, True
        self._stopped, self._stops = None, 0
        if self._is_known(now) and self.progress.done(now):
            self._stop = False

    def on_measured(self, opening: float, stamp: float, now: float) -> None:
        """A measurement; NaN: not known. ``stamp`` [s]: its own clock, only differences are used."""
        returned = not self._is_known(now)
        if returned:
            self.progress.forget()  # whether it stood still meanwhile is not known
        self.progress.measure(opening, stamp)
        self._measured = now
        if returned and self.problem and self._rest is None and self._is_known(now):
            self._begin()  # given up without knowing where it was

    def on_listeners(self, count: int, now: float) -> None:
        """How many listen to the gripper's commands. One more hears the target again."""
        if count > (self._listeners or 0) and self._target is not None:
            self._urgent = True
            self._begin()
        if count == 0 and self._listeners != 0:
            self._waiting = now
        self._listeners = count

    def tick(self, now: float) -> GripperMotion | None:
        """What to send now, None: nothing."""
        if self._target is None:
            return None
        if self._holding:
            return self._stopping(now)
        self._look(now)
        if self._listeners == 0:
            if now - self._waiting > self._config.repeat:
                self.problem = (
                    f"nobody listens to the gripper's commands: is its controller running? {self._numbers(now)}"
                )
            return None
        since = now - self._sent
        if self._urgent and since >= self._config.min_interval:
            return self._send(now)
        if self._urgent or self._rest is not None or self._left or since < self._config.repeat:
            return None
        if self._tries < self._config.tries:
            return self._send(now)
        if not self.problem:
            self._rest = self.progress.opening if self._is_known(now) else None
            self.problem = (
                f"the gripper was told {self._tries} times and is not there: {self._numbers(now)}; is it blocked, "
                "or does its controller not act?"
            )
        return None

    def done(self, now: float) -> bool:
        """Whether it is at its target, or stopped by an object on the way there."""
        return not self._holding and self._is_known(now) and self.progress.done(now)

    def outcome(self, now: float) -> Outcome:
        """What became of the target. TIMED_OUT: given up; ``problem`` says what is measured instead."""
        if self._target is None:
            return Outcome.NONE
        if self._holding:
            return Outcome.HELD
        if self.done(now):
            return Outcome.ARRIVED
        return Outcome.TIMED_OUT if self.problem else Outcome.EXECUTING

    def _begin(self) -> None:
        """The target is to be sent, as often as it takes."""
        self._tries = 0
        self._rest = None
        self._left = False
        self.problem = ""

    def _is_known(self, now: float) -> bool:
        return self.progress.opening is not None and now - self._measured <= self._config.max_age

    def _has_heard(self, now: float) -> bool:
        """At the target, or seen to move there until an object stopped it."""
        progress = self.progress
        return progress.there or (progress.stopped(now) and progress.moved)

    def _look(self, now: float) -> None:
        """Whether the gripper has come to its target, or left it again: somebody opened it, the world was reset."""
        opening, target = self.progress.opening, self._target
        if not self._is_known(now) or self._holding or opening is None or target is None:
            return
        if self._rest is not None and abs(opening - target) - abs(self._rest - target) > self._config.leave:
            self._begin()
            self._left = now - self._commanded > self._config.idle_after
            self.progress.tell(math.inf)
        elif self._has_heard(now) and not self._urgent:
            if self._rest is None or abs(opening - target) < abs(self._rest - target):
                self._rest = opening
            self.problem = ""

    def _send(self, now: float) -> GripperMotion:
        assert self._target is not None
        # One that holds an object and hears its target again has nothing to begin.
        if self._tries == 0 and not self.progress.stopped(now):
            self.progress.tell(now)
        self._tries += 1
        self._sent, self._sent_stop, self._urgent = now, False, False
        way = 1.0
        if self._is_known(now) and self.progress.opening is not None:
            way = abs(self._target - self.progress.opening)
        return GripperMotion(self._target, max(self._duration, way * self._config.full_travel))

    def _stopping(self, now: float) -> GripperMotion | None:
        """A stop where the gripper is measured, and again while it runs on all the same."""
        opening = self.progress.opening
        fresh = now - self._measured <= self._config.stop_age  # an older one would send it back
        if opening is None or not fresh or self._listeners == 0:
            return None
        if not (self._is_to_stop(opening, now) or self._runs_on(opening, now)):
            return None
        self._stop = False
        self._stopped, self._stops = opening, self._stops + 1
        self._sent, self._sent_stop = now, True
        opening = min(max(opening, 0.0), 1.0)
        self.progress.aim(opening, now)
        return GripperMotion(opening, self._config.stop_duration, stop=True)

    def _is_to_stop(self, opening: float, now: float) -> bool:
        """Whether a stop is wanted and the gripper moves, or is about to."""
        if not self._stop:
            return False
        if self._sent_stop:  # and not told to go on since
            self._stop, self._stopped = False, opening
            return False
        progress = self.progress
        about_to = now - self._sent <= progress.config.patience and not progress.done(now)
        if progress.moving or about_to:
            return True
        self._stop = not progress.at_rest  # after a gap in the measurements that takes a moment to tell
        return False

    def _runs_on(self, opening: float, now: float) -> bool:
        """Whether a gripper that was stopped goes on to its target: the stop was lost."""
        if self._stopped is None or self._target is None or self._stops >= self._config.tries:
            return False
        closer = abs(self._stopped - self._target) - abs(opening - self._target)
        return closer > self._config.leave and now - self._sent >= self._config.repeat

    def _numbers(self, now: float) -> str:
        opening = self.progress.opening if self._is_known(now) else None
        return f"asked {self._target:.2f}, measured {'nothing' if opening is None else f'{opening:.2f}'}"
