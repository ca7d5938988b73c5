"""The two control modes: when an inference begins, on which image, and which results are dropped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safety_scene import arm_state

from openvla_ros.control.loops import LOOPS, Frame, LoopConfig, Start, Wait, make_loop
from openvla_ros.errors import ConfigError
from openvla_ros.types import Outcome


class Bench:
    """A loop with a camera at 30 Hz or as told, an arm and a clock."""

    def __init__(self, mode: str, **config: Any) -> None:
        self.loop = make_loop(mode, LoopConfig(**config))
        self.now = 100.0
        self.action = 0
        self.begun: Start | None = None  # by until_start
        self.said: tuple[int, Outcome, float] = (0, Outcome.NONE, 0.0)
        self.loop.start(self.now, "put the carrot on the plate")

    def pass_time(self, dt: float = 0.01, image: bool = True, arm: bool = True) -> None:
        self.now += dt
        if image:
            self.loop.on_frame(Frame(self.now - 0.001, self.now, None))
        if arm:
            self.loop.on_arm_state(arm_state(self.now), *self.said)

    def poll(self) -> Start | Wait:
        return self.loop.poll(self.now)

    def reason(self) -> str:
        step = self.poll()
        assert isinstance(step, Wait), step
        return step.reason

    def begin(self) -> Start:
        step, self.begun = self.begun or self.poll(), None
        assert isinstance(step, Start), step
        return step

    def say(self, outcome: Outcome, action: int | None = None, stamp: float | None = None) -> None:
        self.said = (self.action if action is None else action, outcome, self.now if stamp is None else stamp)

    def infer(self, seconds: float = 0.05) -> Start:
        """An inference from start to action."""
        start = self.begin()
        self.pass_time(seconds)
        self.action += 1
        assert self.loop.on_result(start.ticket, self.action, self.now)
        return start

    def until_start(self, limit: float = 5.0) -> float:
        """The seconds until an inference begins, which ``begin`` and ``infer`` go on with."""
        begin = self.now
        while isinstance(step := self.poll(), Wait):
            self.pass_time()
            assert self.now - begin < limit, step
        self.begun = step
        return self.now - begin


both = pytest.mark.parametrize("mode", sorted(LOOPS))


def test_an_unknown_mode_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="non_blocking, blocking"):
        make_loop("sleeping", LoopConfig())


@both
def test_nothing_begins_without_instruction_image_and_arm_state(mode: str) -> None:
    """Hazard: an invented input: a black image, an empty prompt, an unknown arm."""
    bench = Bench(mode)
    bench.loop.stop(bench.now)
    assert bench.reason() == "not_running"
    bench.loop.start(bench.now, "  ")
    bench.pass_time()
    assert bench.reason() == "no_instruction"
    bench.loop.on_instruction("lift the block", bench.now)
    assert isinstance(bench.poll(), Start)
    bench = Bench(mode)
    bench.pass_time(image=False)
    assert bench.reason() == "no_image"
    bench = Bench(mode)
    bench.pass_time(arm=False)
    assert bench.reason() == "no_arm_state"


@both
def test_a_stale_image_or_arm_state_stops_inference(mode: str) -> None:
    """Hazard: the camera froze, the driver died; the policy goes on with the last it saw."""
    bench = Bench(mode)
    bench.pass_time()
    bench.pass_time(0.6, image=False)
    assert bench.reason() == "stale_image"
    assert not bench.poll().expected
    bench.pass_time()
    bench.pass_time(0.6, arm=False)
    assert bench.reason() == "stale_arm_state"
    bench.pass_time()
    bench.loop.on_frame(Frame(bench.now + 3, bench.now, None))
    assert bench.reason() == "stale_image"  # from the future
    assert bench.loop.report.waits == {"stale_image": 1, "stale_arm_state": 1} | {"stale_image": 2}


@both
def test_a_frozen_picture_under_new_stamps_stops_inference(mode: str) -> None:
    """Hazard: a camera driver that sends its last picture again and again, each time with the time of sending."""

    def show(fingerprint: int | None, times: int) -> None:
        for _ in range(times):
            bench.pass_time(image=False)
            bench.loop.on_frame(Frame(bench.now, bench.now, None, fingerprint))

    bench = Bench(mode, frozen_repeats=3)
    show(7, 3)
    assert isinstance(bench.poll(), Start)
    bench = Bench(mode, frozen_repeats=3)
    show(7, 4)
    assert bench.reason() == "frozen_image"
    assert not bench.poll().expected
    show(8, 1)
    assert isinstance(bench.poll(), Start)
    for repeats, fingerprint in ((0, 7), (3, None)):  # switched off; not known
        bench = Bench(mode, frozen_repeats=repeats)
        show(fingerprint, 20)
        assert isinstance(bench.poll(), Start)


def test_which_image_shows_the_present() -> None:
    """Hazard: the safety filter is told that the policy sees, and the picture is an old one."""
    bench = Bench("non_blocking", frozen_repeats=2)
    shown = [
        bench.loop.on_frame(Frame(bench.now + stamp, bench.now, None, fingerprint))
        for stamp, fingerprint in ((0.0, 1), (0.0, 2), (0.001, 3), (0.002, 3), (0.003, 3), (0.004, 4), (3.0, 5))
    ]
    assert shown == [True, False, True, True, False, True, False]  # same stamp; frozen; from the future
    assert not bench.loop.on_frame(Frame(bench.now + 4.0, bench.now + 9.0, None, 6))  # old when it came


@both
def test_one_image_never_drives_the_arm_twice(mode: str) -> None:
    """Hazard: a frozen camera that republishes; deltas from one image add up."""
    bench = Bench(mode)
    bench.pass_time()
    start = bench.infer()
    bench.say(Outcome.ARRIVED, stamp=start.frame.stamp - 1)
    bench.loop.on_frame(start.frame)
    bench.pass_time(0.3, image=False)
    assert bench.reason() == "same_image"


@both
def test_images_from_before_the_start_are_not_used(mode: str) -> None:
    """Hazard: the first action of an episode is computed from the scene of the last one."""
    bench = Bench(mode)
    bench.pass_time()
    bench.loop.start(bench.now + 0.01, "lift the block")
    bench.pass_time(0.02, image=False)
    assert bench.reason() == "no_image"
    bench.pass_time()
    bench.begin()


@both
def test_never_more_than_one_inference_at_a_time(mode: str) -> None:
    bench = Bench(mode)
    bench.pass_time()
    start = bench.begin()
    bench.pass_time(1.0)
    assert bench.reason() == "inferring"
    bench.loop.stop(bench.now)
    bench.loop.start(bench.now, "lift the block")
    bench.pass_time()
    assert bench.reason() == "inferring"  # the worker is busy, even if nobody wants its result
    assert not bench.loop.on_result(start.ticket, 1, bench.now)
    bench.begin()


@both
def test_a_result_is_dropped_when_the_instruction_changed_or_control_stopped(mode: str) -> None:
    """Hazard: the arm finishes what it was told before."""
    bench = Bench(mode)
    bench.pass_time()
    start = bench.begin()
    bench.loop.on_instruction("lift the block", bench.now)
    assert not bench.loop.on_result(start.ticket, 1, bench.now)
    bench.pass_time(0.3)
    start = bench.begin()
    assert start.instruction == "lift the block"
    bench.loop.stop(bench.now)
    assert not bench.loop.on_result(start.ticket, 2, bench.now)
    assert bench.loop.report.dropped == 2
    assert bench.loop.report.delivered == 0


@both
def test_the_same_instruction_again_drops_nothing(mode: str) -> None:
    """Hazard: an operator's panel that publishes the instruction at 1 Hz, and a slow model: no action, ever."""
    bench = Bench(mode)
    bench.pass_time()
    start = bench.begin()
    bench.loop.on_instruction("put the carrot on the plate ", bench.now)
    assert bench.loop.on_result(start.ticket, 1, bench.now)


@both
def test_a_result_counts_once_and_only_for_its_ticket(mode: str) -> None:
    bench = Bench(mode)
    bench.pass_time()
    start = bench.begin()
    assert not bench.loop.on_result(start.ticket + 1, 1, bench.now)
    assert bench.loop.on_result(start.ticket, 1, bench.now)
    assert not bench.loop.on_result(start.ticket, 1, bench.now)


@both
def test_a_failed_inference_is_retried_on_a_new_image_in_the_next_period(mode: str) -> None:
    bench = Bench(mode)
    bench.pass_time()
    start = bench.begin()
    bench.pass_time(0.05)
    assert not bench.loop.on_result(start.ticket, None, bench.now)
    assert bench.reason() == "next_period"
    assert bench.until_start() == pytest.approx(0.15, abs=0.02)
    assert bench.loop.report.failed == 1


@both
def test_a_clock_that_goes_backwards_forgets_images_and_goes_on_with_new_ones(mode: str) -> None:
    """Hazard: a loop that waits until the clock is where it was."""
    bench = Bench(mode)
    bench.pass_time()
    start = bench.begin()
    bench.now -= 50
    bench.poll()
    assert not bench.loop.on_result(start.ticket, 1, bench.now)
    bench.pass_time()
    bench.begin()


def test_non_blocking_keeps_its_rate_and_its_grid() -> None:
    bench = Bench("non_blocking")
    bench.pass_time()
    starts = []
    while len(starts) < 20:
        if isinstance(step := bench.poll(), Start):
            starts.append(bench.now)
            bench.loop.on_result(step.ticket, len(starts), bench.now)
        bench.pass_time(0.007)  # a timer that never hits the grid
    assert (starts[-1] - starts[0]) / 19 == pytest.approx(0.2, abs=0.002)
    assert bench.loop.report.achieved_hz == pytest.approx(5.0, rel=0.01)


def test_non_blocking_with_slow_inference_slows_down_and_catches_nothing_up() -> None:
    """Hazard: after a slow inference, a burst of actions to make up for it."""
    bench = Bench("non_blocking")
    bench.pass_time()
    for _ in range(5):
        bench.infer(0.5)
        bench.pass_time(0.01)
    assert bench.loop.report.achieved_hz == pytest.approx(1 / 0.51, rel=0.01)
    bench.infer(0.01)
    assert bench.until_start() == pytest.approx(0.19, abs=0.02)
    bench.infer(0.01)
    assert bench.until_start() == pytest.approx(0.19, abs=0.02)


def test_non_blocking_does_not_wait_for_the_arm() -> None:
    bench = Bench("non_blocking")
    bench.pass_time()
    bench.infer()
    bench.say(Outcome.EXECUTING)
    bench.until_start(0.3)


def test_blocking_waits_for_the_measured_arrival_and_an_image_after_it() -> None:
    """Hazard: "blocking" that only sleeps; an image from while the arm still moved."""
    bench = Bench("blocking")
    bench.pass_time()
    bench.infer()
    for _ in range(30):
        bench.pass_time(0.1)
        assert bench.reason() == "waiting_for_arrival"
    bench.say(Outcome.EXECUTING)
    for _ in range(30):
        bench.pass_time(0.1)
        assert bench.reason() == "waiting_for_arrival"
    bench.say(Outcome.ARRIVED)
    bench.pass_time(0.05, image=False)
    assert bench.reason() == "waiting_for_image_after_arrival"
    bench.loop.on_frame(Frame(bench.said[2], bench.now, None))  # taken at the very moment
    assert bench.reason() == "waiting_for_image_after_arrival"
    bench.pass_time()
    bench.begin()
    assert bench.loop.report.outcomes == {Outcome.ARRIVED: 1}


@pytest.mark.parametrize("outcome", [Outcome.TIMED_OUT, Outcome.REFUSED, Outcome.HELD])
def test_blocking_goes_on_after_an_explicit_other_outcome_and_counts_it(outcome: Outcome) -> None:
    bench = Bench("blocking")
    bench.pass_time()
    bench.infer()
    bench.say(outcome)
    bench.until_start()
    assert bench.loop.report.outcomes == {outcome: 1}


def test_blocking_is_not_released_by_the_outcome_of_an_older_action() -> None:
    """Hazard: the arrival of the last action, still being reported, is taken for that of this one."""
    bench = Bench("blocking")
    bench.pass_time()
    bench.infer()
    bench.say(Outcome.ARRIVED)
    bench.until_start()
    bench.infer()  # the driver still says ARRIVED for the first
    bench.pass_time(0.5)
    assert bench.reason() == "waiting_for_arrival"


def test_blocking_retries_an_action_that_the_filter_refused_at_most_at_the_rate() -> None:
    """Hazard: a refused action has no arrival, ever; retried at once, it becomes a flood."""
    bench = Bench("blocking")
    bench.pass_time()
    for _ in range(3):
        bench.infer(0.01)
        bench.loop.on_verdict(bench.action - 1, True, bench.now)  # of an older one: not ours
        assert bench.reason() == "waiting_for_arrival"
        bench.loop.on_verdict(bench.action, True, bench.now)
        assert bench.until_start() == pytest.approx(0.19, abs=0.02)
    assert bench.loop.report.refused == 6


def test_an_accepted_verdict_is_no_arrival() -> None:
    bench = Bench("blocking")
    bench.pass_time()
    bench.infer()
    bench.loop.on_verdict(bench.action, False, bench.now)
    bench.pass_time(0.5)
    assert bench.reason() == "waiting_for_arrival"


def test_a_hold_without_an_action_ends_the_wait_but_not_one_from_before() -> None:
    """Hazard: an e-stop that no action caused leaves blocking control waiting; an old one must not release it."""
    bench = Bench("blocking")
    bench.say(Outcome.HELD, action=0)
    bench.pass_time()
    bench.infer()
    bench.pass_time(0.3)
    assert bench.reason() == "waiting_for_arrival"
    bench.say(Outcome.EXECUTING)
    bench.pass_time()
    bench.say(Outcome.HELD, action=0)
    bench.until_start()
    assert bench.loop.report.outcomes == {Outcome.HELD: 1}


def test_an_action_of_which_nothing_is_heard_is_given_up_but_never_while_the_arm_moves() -> None:
    """Hazard: a lost message, or a restarted driver, blocks the loop for ever."""
    bench = Bench("blocking", outcome_timeout=2.0)
    bench.pass_time()
    bench.infer()
    bench.say(Outcome.EXECUTING)
    bench.pass_time(5.0)
    assert bench.reason() == "waiting_for_arrival"
    bench.say(Outcome.NONE, action=0)
    bench.pass_time()
    assert bench.reason() == "no_image"  # the newest image is from before it was given up
    bench.pass_time()
    bench.begin()
    assert bench.loop.report.lost == 1


def test_blocking_survives_a_clock_that_goes_backwards() -> None:
    """Hazard: waiting for an image newer than an arrival of the old clock, or for a timeout that is years off."""
    bench = Bench("blocking", outcome_timeout=2.0)
    bench.pass_time()
    bench.infer()
    bench.now -= 50
    bench.poll()
    bench.pass_time()
    assert bench.reason() == "waiting_for_arrival"
    bench.pass_time(2.1)
    bench.until_start(0.3)  # given up after two seconds of the new clock
    bench = Bench("blocking")
    bench.pass_time()
    bench.infer()
    bench.say(Outcome.ARRIVED)
    bench.pass_time()
    bench.now -= 50
    bench.pass_time()
    bench.poll()
    bench.pass_time()
    bench.begin()


def test_blocking_does_not_begin_while_an_earlier_motion_runs() -> None:
    """Hazard: control starts anew while the arm still carries out the last episode's action."""
    bench = Bench("blocking")
    bench.say(Outcome.EXECUTING, action=77)
    bench.pass_time()
    assert bench.reason() == "waiting_for_arrival"
    bench.say(Outcome.ARRIVED, action=77)
    bench.pass_time()
    bench.until_start(0.1)


@both
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_invariants_of_both_modes_for_any_order_of_events(mode: str, data: st.DataObject) -> None:
    """Hazard: the order of events that nobody thought of.

    At most one inference at a time, no image twice, none that is stale, never faster than the rate; blocking also never
    while the arm executes, nor on an image from before its last motion ended.
    """
    bench = Bench(mode, outcome_timeout=1.0)
    last_start, last_stamp, running = -1.0, -1.0, None
    events = st.sampled_from(["time", "time", "poll", "poll", "poll", "result", "fail", "outcome", "refuse", "text"])
    for event in data.draw(st.lists(events, min_size=30, max_size=80)):
        if event == "time":
            bench.pass_time(data.draw(st.sampled_from([0.01, 0.1, 0.7])), *data.draw(st.tuples(*[st.booleans()] * 2)))
        elif event == "poll" and isinstance(step := bench.poll(), Start):
            assert running is None
            assert step.frame.stamp > last_stamp
            assert bench.now - step.frame.stamp <= 0.5
            assert bench.now - last_start >= 0.2 * 0.9 - 1e-9
            if mode == "blocking":
                assert bench.loop._said[1] is not Outcome.EXECUTING
                assert bench.loop._said[1] is Outcome.NONE or step.frame.stamp > bench.loop._said[2]
            running, last_start, last_stamp = step.ticket, bench.now, step.frame.stamp
        elif event in ("result", "fail") and running is not None:
            if event == "result":
                bench.action += 1
            bench.loop.on_result(running, bench.action if event == "result" else None, bench.now)
            running = None
        elif event == "outcome":
            bench.say(data.draw(st.sampled_from([o for o in Outcome if o is not Outcome.NONE])))
        elif event == "refuse":
            bench.loop.on_verdict(bench.action, True, bench.now)
        elif event == "text":
            bench.loop.on_instruction(data.draw(st.sampled_from(["a", "b"])), bench.now)
