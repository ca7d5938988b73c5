"""A gripper is told until it is measured to have heard, and again when it has forgotten; never a stream."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.drive.grippers import GripperKeeper, GripperMotion, KeeperConfig, ProgressConfig
from openvla_ros.types import Outcome

DT = 0.02


@dataclass
class Bench:
    """A keeper and a gripper that moves at ``speed`` [1/s] to what it heard, and no further than ``block`` lets it."""

    opening: float = 1.0
    block: float = 0.0
    hears: bool = True
    seen: bool = True
    speed: float = 4.0
    config: KeeperConfig = field(default_factory=KeeperConfig)
    offset: float = 1.7e9  # of the measurements' clock

    def __post_init__(self) -> None:
        self.keeper = GripperKeeper(self.config)
        self.now = 100.0
        self.goal: float | None = None
        self.sent: list[tuple[float, GripperMotion]] = []
        self.measure()

    def measure(self) -> None:
        self.keeper.on_measured(self.opening if self.seen else math.nan, self.now + self.offset, self.now)

    def tick(self) -> GripperMotion | None:
        motion = self.keeper.tick(self.now)
        if motion is not None:
            self.sent.append((self.now, motion))
            if self.hears:
                self.goal = motion.opening
        return motion

    def go(self, seconds: float) -> list[float]:
        """The openings that were sent meanwhile."""
        before = len(self.sent)
        for _ in range(round(seconds / DT)):
            self.now += DT
            if self.goal is not None:
                step = min(max(self.goal - self.opening, -self.speed * DT), self.speed * DT)
                self.opening = max(self.opening + step, min(self.block, self.opening))
            self.measure()
            self.tick()
        return [motion.opening for _, motion in self.sent[before:]]

    def command(self, opening: float, duration: float = 0.2) -> GripperMotion | None:
        self.keeper.command(opening, duration, self.now)
        return self.tick()

    def hold(self) -> GripperMotion | None:
        self.keeper.hold(self.now)
        return self.tick()

    def listeners(self, count: int) -> GripperMotion | None:
        self.keeper.on_listeners(count, self.now)
        return self.tick()

    @property
    def outcome(self) -> Outcome:
        return self.keeper.outcome(self.now)


def holding_a_block(**changes: Any) -> Bench:
    bench = Bench(block=0.5, **changes)
    bench.command(0.0)
    bench.go(1.0)
    assert bench.outcome is Outcome.ARRIVED
    return bench


def test_nothing_is_sent_before_the_first_command() -> None:
    """Hazard: a driver that starts and closes, or opens, a gripper that nobody asked about."""
    bench = Bench(opening=0.3)
    bench.listeners(0)
    bench.listeners(2)
    bench.hold()
    assert bench.go(3.0) == []
    assert bench.outcome is Outcome.NONE


def test_a_gripper_that_hears_is_told_once() -> None:
    bench = Bench()
    assert bench.command(0.0) == GripperMotion(0.0, 0.2)
    assert bench.outcome is Outcome.EXECUTING
    assert bench.go(5.0) == []
    assert bench.outcome is Outcome.ARRIVED
    for _ in range(20):  # every step of the arm brings the same target
        assert bench.command(0.0) is None
        assert bench.go(0.2) == []
    assert bench.command(1.0) == GripperMotion(1.0, 0.2)


def test_a_target_that_is_there_already_is_told_all_the_same() -> None:
    """Hazard: the fingers are where they should be, but their controller pulls elsewhere."""
    bench = Bench(opening=1.0)
    assert bench.command(1.0) is not None
    assert bench.outcome is Outcome.ARRIVED
    assert bench.go(2.0) == []


def test_a_lost_command_is_repeated_until_the_gripper_has_heard() -> None:
    """Hazard: the one message is lost, and the arm lifts with an open gripper."""
    bench = Bench(hears=False)
    bench.command(0.0)
    assert bench.go(1.1) == [0.0, 0.0]
    assert bench.outcome is Outcome.EXECUTING
    bench.hears = True
    assert bench.go(0.5) == [0.0]
    assert bench.go(5.0) == []
    assert bench.outcome is Outcome.ARRIVED
    assert bench.keeper.problem == ""


def test_a_gripper_that_never_moves_is_given_up_and_that_is_said() -> None:
    """Hazard: a dead gripper, unnoticed; or one that is told for ever."""
    bench = Bench(hears=False)
    bench.command(0.0)
    bench.go(1.4)
    assert bench.outcome is Outcome.EXECUTING, "it may not have heard"
    assert len(bench.go(30.0)) + 3 == bench.config.tries
    assert "told 6 times" in bench.keeper.problem
    assert "asked 0.00, measured 1.00" in bench.keeper.problem
    bench.hears = True
    bench.command(0.0)
    assert bench.go(5.0) == [], "given up"
    bench.command(1.0)
    bench.go(1.0)
    assert bench.keeper.problem == "", "another target is another try"


def test_an_opening_that_is_not_measured_is_neither_arrival_nor_sent() -> None:
    """Hazard: comparisons with NaN are false; written the wrong way round they mean "there"."""
    bench = Bench(seen=False)
    assert bench.command(0.4, duration=0.05) == GripperMotion(0.4, 0.2), "the whole way, for all that is known"
    assert bench.go(10.0) == [0.4] * 5
    assert bench.outcome is Outcome.TIMED_OUT
    assert "measured nothing" in bench.keeper.problem
    bench.seen = True
    bench.go(0.5)
    assert bench.outcome is Outcome.ARRIVED
    assert bench.keeper.problem == ""


def test_measurements_that_stop_are_not_known_any_more() -> None:
    bench = Bench()
    bench.command(0.0)
    bench.go(1.0)
    bench.now += 0.3
    assert bench.outcome is not Outcome.ARRIVED


def test_whether_it_rested_during_a_gap_is_not_known() -> None:
    """Hazard: two equal measurements a second apart are taken for a second of standing still."""
    bench = Bench(block=0.5)
    bench.command(0.0)
    bench.go(0.16)
    bench.now += 1.0
    bench.measure()
    assert bench.outcome is Outcome.EXECUTING
    bench.go(0.2)
    assert bench.outcome is Outcome.ARRIVED


def test_given_up_blindly_it_is_tried_again_when_it_is_seen_again() -> None:
    """Hazard: the arm's driver starts again, gripper open, and "close" was given up meanwhile."""
    bench = Bench(seen=False, hears=False)
    bench.command(0.0)
    bench.go(10.0)
    bench.seen = bench.hears = True
    assert bench.go(0.1) == [0.0]
    bench.go(1.0)
    assert bench.outcome is Outcome.ARRIVED


def test_given_up_it_is_tried_again_as_often_when_a_controller_appears() -> None:
    bench = Bench(hears=False)
    bench.listeners(1)
    bench.command(0.0)
    bench.go(10.0)
    assert bench.outcome is Outcome.ARRIVED, "it does not move, as if blocked, and nobody waits for it; but it is said"
    assert bench.keeper.problem
    assert bench.listeners(2) is not None
    assert bench.keeper.problem == ""
    assert bench.go(1.1) == [0.0, 0.0]


def test_one_measurement_again_and_again_is_no_rest() -> None:
    """Hazard: frozen joint states look like fingers that an object has stopped."""
    bench = Bench()
    bench.command(0.0)
    bench.go(0.1)
    frozen = bench.now
    for _ in range(100):
        bench.now += DT
        bench.keeper.on_measured(bench.opening, frozen, bench.now)
        assert bench.outcome is Outcome.EXECUTING


def test_a_clock_that_is_set_back_does_not_blind_it() -> None:
    """Hazard: "older than the newest" for an hour, after the clock was set back by one."""
    bench = holding_a_block()
    bench.offset -= 3600.0
    bench.go(0.2)
    assert bench.outcome is Outcome.ARRIVED
    assert not bench.keeper.progress.moving


def test_a_grasped_object_is_arrival_and_is_not_told_again() -> None:
    """Hazard: a repeated trajectory starts at the measured opening, and the grip loosens with every one."""
    bench = Bench(block=0.5)
    bench.command(0.0)
    bench.go(0.2)
    assert bench.outcome is Outcome.EXECUTING
    assert bench.go(10.0) == []
    assert bench.outcome is Outcome.ARRIVED
    assert bench.command(0.004) is not None, "a little further on: told, and the object is still held"
    assert bench.outcome is Outcome.ARRIVED
    assert bench.go(10.0) == []
    assert bench.command(1.0) is not None
    assert bench.outcome is Outcome.EXECUTING, "the object stops no gripper that opens"


def test_a_gripper_that_has_not_begun_to_move_is_not_stopped_by_an_object() -> None:
    """Hazard: the controller is not there, the gripper is at rest, and blocking control goes on to lift."""
    bench = Bench(hears=False)
    bench.command(0.0)
    bench.go(1.0)
    assert not bench.keeper.done(bench.now)


def test_an_object_that_was_in_the_hand_before_is_waited_for_once() -> None:
    """Hazard: the driver starts again with a block in hand, and every step of blocking control times out."""
    bench = Bench(opening=0.5, block=0.5)
    bench.command(0.0)
    bench.go(1.3)
    assert bench.outcome is Outcome.EXECUTING
    bench.go(0.4)
    assert bench.outcome is Outcome.ARRIVED
    bench.command(0.01)
    assert bench.outcome is Outcome.ARRIVED


def test_a_controller_that_appears_hears_the_target_within_a_tick() -> None:
    """Hazard: the gripper's controller starts after the first command and never hears of it."""
    bench = Bench(hears=False)
    bench.listeners(0)
    bench.command(0.0)
    assert bench.go(60.0) == [], "nobody to tell"
    assert bench.outcome is Outcome.TIMED_OUT
    assert "nobody listens" in bench.keeper.problem
    bench.hears = True
    assert bench.listeners(1) == GripperMotion(0.0, 0.2)
    bench.go(1.0)
    assert bench.outcome is Outcome.ARRIVED
    assert bench.keeper.problem == ""


def test_a_controller_that_starts_again_hears_the_target_of_a_held_object() -> None:
    bench = holding_a_block()
    bench.listeners(1)
    bench.go(1.0)
    bench.listeners(0)
    bench.go(1.0)
    assert bench.listeners(1) is not None
    assert bench.outcome is Outcome.ARRIVED
    bench.listeners(2)
    assert bench.go(0.12) == [0.0], "another listener, a recorder, costs one message, and not at once"


@pytest.mark.parametrize("block", [0.0, 0.5])
def test_a_gripper_that_leaves_its_target_is_told_again(block: float) -> None:
    """Hazard: the simulation was reset, its gripper is open, and the policy's "close" is no change of target."""
    bench = Bench(block=block)
    bench.command(0.0)
    bench.go(2.0)
    bench.command(0.0)
    bench.opening, bench.goal = 1.0, None
    assert bench.go(0.1) == [0.0]
    assert bench.outcome is Outcome.EXECUTING
    bench.go(2.0)
    assert bench.outcome is Outcome.ARRIVED


def test_a_gripper_that_is_opened_bit_by_bit_is_told_again() -> None:
    """Hazard: every small step is a rest of its own, and none is far from the last."""
    bench = holding_a_block()
    bench.goal = None
    sent: list[float] = []
    for opening in (0.55, 0.58, 0.61, 0.64):
        bench.command(0.0)
        bench.opening, bench.goal = opening, None
        sent += bench.go(0.3)
    assert sent


def test_without_a_commander_a_gripper_that_was_opened_waits_for_the_next_command() -> None:
    """Hazard: an episode is over, somebody opens the gripper, and it closes on their fingers, or in the next scene."""
    bench = holding_a_block()
    bench.go(2.0)
    bench.opening, bench.goal = 1.0, None
    assert bench.go(10.0) == []
    assert bench.command(0.0) == GripperMotion(0.0, 0.2)


def test_an_object_that_slips_out_is_no_reason_to_tell_again() -> None:
    bench = holding_a_block()
    bench.block = 0.2
    bench.command(0.0)
    assert bench.go(3.0) == []
    assert bench.outcome is Outcome.ARRIVED


@pytest.mark.parametrize(("speed", "after"), [(1.0, 0.4), (0.08, 5.0)])
def test_a_hold_stops_a_gripper_that_moves(speed: float, after: float) -> None:
    """Hazard: the stop is pressed, the arm stands, and the fingers go on closing; slow ones, long after they heard."""
    bench = Bench(speed=speed, config=KeeperConfig(progress=ProgressConfig(still=0.002)))
    bench.command(0.0)
    bench.go(after)
    motion = bench.hold()
    assert motion is not None
    assert motion.stop
    assert motion.opening == pytest.approx(0.6)
    assert bench.outcome is Outcome.HELD
    assert bench.go(5.0) == []
    assert bench.opening == pytest.approx(0.6)


def test_a_hold_stops_a_gripper_that_is_about_to_move() -> None:
    """Hazard: told 20 ms ago, at rest and short of its target it looks as if it held an object."""
    bench = Bench()
    bench.command(0.0)
    bench.goal = None
    bench.go(DT)
    motion = bench.hold()
    assert motion == GripperMotion(1.0, 0.1, stop=True)


def test_a_hold_lets_go_of_nothing() -> None:
    """Hazard: "hold where it is measured" is, for fingers around an object, to let it fall."""
    bench = holding_a_block()
    assert bench.hold() is None
    assert bench.go(5.0) == []
    assert bench.command(0.0) is None, "still held"
    assert bench.outcome is Outcome.ARRIVED


def test_a_hold_leaves_fingers_that_are_at_their_target() -> None:
    """Hazard: they have just closed on something thin; stopped where they are, they would not press on it."""
    bench = Bench()
    bench.command(0.0)
    while bench.opening > 0.05:
        bench.go(DT)
    assert bench.keeper.progress.moving
    assert bench.hold() is None


def test_commands_and_holds_in_turn_are_no_stream() -> None:
    """Hazard: a stop button that bounces, under a policy that goes on."""
    bench = Bench(speed=1.0)
    for _ in range(100):
        bench.command(0.0)
        bench.go(DT)
        bench.hold()
        bench.go(DT)
    targets = [t for t, motion in bench.sent if not motion.stop]
    assert len(bench.sent) <= 2 * len(targets)
    assert len(targets) <= 4.0 / bench.config.min_interval + 1


def test_a_hold_just_after_a_little_further_target_lets_go_of_nothing() -> None:
    bench = holding_a_block()
    bench.command(0.004)
    bench.go(DT)
    assert bench.hold() is None


def test_nothing_is_sent_while_held() -> None:
    """Hazard: the stop is pressed, somebody takes the object out of the fingers, and they are told to close again."""
    bench = holding_a_block()
    bench.hold()
    bench.opening, bench.goal = 1.0, None
    assert bench.go(2.0) == []
    assert bench.listeners(1) is None
    assert bench.go(2.0) == []
    assert bench.command(0.0) is not None, "until the next command"


def test_a_command_after_a_stop_goes_on() -> None:
    """Hazard: the same target as before the stop "has not changed", and the gripper stays half open."""
    bench = Bench(speed=1.0)
    bench.command(0.0)
    bench.go(0.4)
    bench.hold()
    bench.go(0.2)
    assert bench.command(0.0) is not None
    bench.go(2.0)
    assert bench.outcome is Outcome.ARRIVED
    assert bench.opening == pytest.approx(0.0)


def test_a_stop_that_is_lost_is_repeated() -> None:
    bench = Bench(speed=0.5)
    bench.command(0.0)
    bench.go(0.4)
    bench.hears = False
    assert bench.hold() is not None
    bench.hears = True
    (again,) = bench.go(1.0)
    assert again == pytest.approx(0.55, abs=0.02)
    assert bench.go(2.0) == []


def test_a_stop_waits_for_a_fresh_measurement() -> None:
    """Hazard: an old measurement lies behind fingers that move: they would be sent back."""
    bench = Bench(speed=1.0)
    bench.command(0.0)
    bench.go(0.4)
    bench.now += 0.1
    assert bench.hold() is None
    bench.opening = 0.5
    (stop,) = bench.go(DT)
    assert stop == pytest.approx(0.48)


def test_a_hold_without_measurements_lets_go_of_nothing_later() -> None:
    """Hazard: the first measurement after a gap looks like fingers that have not stopped yet."""
    bench = holding_a_block()
    bench.go(2.0)
    bench.now += 0.5
    assert bench.hold() is None
    assert bench.go(3.0) == []
    bench.opening, bench.goal = 0.7, None
    assert bench.go(1.0) == [], "nor when somebody takes it out"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
def test_a_target_that_is_no_opening_is_an_error_and_changes_nothing(bad: float) -> None:
    bench = holding_a_block()
    with pytest.raises(ValueError, match=r"allowed are 0 \(closed\) to 1 \(open\)"):
        bench.keeper.command(bad, 0.2, bench.now)
    with pytest.raises(ValueError, match="finite and above 0"):
        bench.keeper.command(0.0, math.nan, bench.now)
    assert bench.tick() is None
    assert bench.outcome is Outcome.ARRIVED


def test_a_short_duration_is_no_way_around_the_rate() -> None:
    """Hazard: fast control asks for the whole way in one step of 20 ms."""
    bench = Bench()
    assert bench.command(0.0, duration=0.02) == GripperMotion(0.0, 0.2)
    bench.go(1.0)
    assert bench.command(0.3, duration=0.02) == GripperMotion(0.3, pytest.approx(0.06))


OPENINGS = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("command"), OPENINGS),
        st.tuples(st.just("again"), st.none()),
        st.tuples(st.just("hold"), st.none()),
        st.tuples(st.just("listeners"), st.integers(0, 2)),
        st.tuples(st.just("hears"), st.booleans()),
        st.tuples(st.just("seen"), st.booleans()),
        st.tuples(st.just("block"), st.floats(0.0, 1.0)),
        st.tuples(st.just("opening"), st.floats(0.0, 1.0)),
        st.tuples(st.just("go"), st.floats(0.0, 1.0)),
        st.tuples(st.just("gap"), st.floats(0.0, 1.0)),
    ),
    max_size=60,
)


class Checked(Bench):
    """Checks after every tick what must hold whatever happens."""

    wanted: float | None = None
    holding = False
    count: int | None = None
    appeared = False  # and has not been told since

    def event(self, kind: str, value: Any) -> None:
        if kind in ("command", "again"):
            opening = value if kind == "command" else self.wanted
            if opening is not None:
                self.wanted, self.holding = opening, False
                self.command(opening)
        elif kind == "hold":
            self.holding = self.holding or self.wanted is not None
            self.hold()
        elif kind == "listeners":
            self.appeared = value > 0 and (self.appeared or (self.wanted is not None and value > (self.count or 0)))
            self.count = value
            self.listeners(value)
        elif kind == "go":
            self.go(value)
        elif kind == "gap":
            self.now += value
            self.tick()
        else:
            setattr(self, kind, value)

    def tick(self) -> GripperMotion | None:
        motion = super().tick()
        if motion is not None:
            self.check(motion)
            self.appeared = self.appeared and motion.stop
        recent = [t for t, m in self.sent if not m.stop and self.now - t < self.config.min_interval]
        assert recent or self.holding or not self.appeared, "whoever appears is told within a tick"
        return motion

    def check(self, motion: GripperMotion) -> None:
        assert self.wanted is not None, "nothing before the first command"
        assert self.count != 0, "nobody listens"
        assert 0.0 <= motion.opening <= 1.0, "NaN included"
        assert 0.0 < motion.duration <= 0.2
        assert motion.stop == self.holding
        assert motion.stop or motion.opening == self.wanted
        assert not motion.stop or motion.opening == self.keeper.progress.opening


def assert_bounded(sent: list[tuple[float, GripperMotion]], config: KeeperConfig) -> None:
    targets = [t for t, motion in sent if not motion.stop]
    assert all(b - a >= config.min_interval - 1e-9 for a, b in pairwise(targets))
    for (t0, first), (t1, second) in pairwise(sent):
        assert t1 - t0 >= config.repeat - 1e-9 or not (first.stop and second.stop)


@given(events=EVENTS, opening=st.floats(0.0, 1.0), speed=st.floats(0.2, 10.0))
@settings(max_examples=150, deadline=None)
def test_whatever_happens(events: list[tuple[str, Any]], opening: float, speed: float) -> None:
    """Hazard: a stream of gripper commands; a target that nobody asked for; motion while stopped; NaN on the wire."""
    bench = Checked(opening=opening, speed=speed)
    for kind, value in events:
        bench.event(kind, value)
    bench.go(1.0)
    assert_bounded(bench.sent, bench.config)


@given(events=EVENTS)
@settings(max_examples=50, deadline=None)
def test_in_the_end_it_is_quiet_and_says_what_it_is(events: list[tuple[str, Any]]) -> None:
    """Hazard: a gripper that is told for ever, or waited for for ever."""
    bench = Checked()
    for kind, value in events:
        bench.event(kind, value)
    bench.event("command", 0.25)
    bench.go(bench.config.tries * bench.config.repeat + 1.0)
    assert bench.go(5.0) == []
    assert bench.outcome in (Outcome.ARRIVED, Outcome.TIMED_OUT)
    assert bench.outcome is not Outcome.TIMED_OUT or bench.keeper.problem
