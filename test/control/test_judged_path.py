"""What was judged is what moves: filter, driver and arm together, asserted on what the arm is told at 1 ms.

First kinds of trouble by name (support/judged_cases.py), then random scripts of them (``SAFETY_EVENTS`` says how many).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("mink")

import judged_cases as cases
from judged_arm import JudgedArm
from judged_cases import FALSE, FOREIGN, assert_within, stream
from judged_script import Script

from openvla_ros.control.safety import Verdict, rules
from openvla_ros.types import Outcome

EVENTS = int(os.environ.get("SAFETY_EVENTS", "10000")) // 10
SEQUENCE = 60  # events of one script
SHOWN = 3_000  # events between two lines that say how far it is


@pytest.mark.parametrize("lost", [1, 2, 5])
def test_a_lost_command(lost: int) -> None:
    """Hazard: 0.50 m/s at a limit of 0.25, and through the corner of a keep-out box."""
    arm = cases.lost_command(lost)
    assert any(command.hold for command in arm.commands)
    assert sum(d.verdict is not Verdict.REFUSED for d in arm.decisions if d.raw is not None) > 8  # and it goes on


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08])
def test_commands_that_are_late_now_and_then(delay: float) -> None:
    """Hazard: what is late is caught up with."""
    cases.late_commands(delay)


@pytest.mark.parametrize("delay", [0.02, 0.05, 0.08])
def test_commands_that_are_always_late(delay: float) -> None:
    """Hazard: a path that has begun elsewhere when it comes; or nothing moves at all within the time that is given."""
    arm = JudgedArm()
    arm.carry = lambda command, now: [(command, delay)]
    stream(arm, 10)
    assert_within(arm.wire)
    if delay <= 0.03:
        assert arm.wire.p[-1, 1] - arm.wire.p[0, 1] > 0.2


def test_late_commands_of_a_slow_filter() -> None:
    """Hazard: within what the arm may, and faster than what was judged."""
    cases.late_and_slow()


@pytest.mark.parametrize("seed", range(3))
def test_commands_twice_and_in_another_order(seed: int) -> None:
    """Hazard: a path of before takes over from a newer one."""
    cases.reordered(seed)


def test_a_hold_that_overtakes_a_move() -> None:
    """Hazard: the arm is told to hold, and moves."""
    cases.hold_overtakes_the_first_move()


@pytest.mark.parametrize(
    ("hz", "plan"),
    [
        (50, lambda k: 0.2),
        (50, lambda k: 0.2 if k % 9 == 0 else 0.05),
        (50, lambda k: 1.0 if k % 50 == 0 else 0.05),
        (50, lambda k: 2.0 if k == 0 else 0.05),
        (10, lambda k: 1.0 if k % 10 == 0 else 0.05),
        (10, lambda k: (0.4, 0.1)[k % 2]),
    ],
)
def test_durations_that_vary(hz: int, plan: Callable[[int], float]) -> None:
    """Hazard: two policies in turn, a control step that changes: 0.47 to 0.76 m/s on the wire."""
    arm, y = JudgedArm(), 1
    for k in range(2 * hz):
        place = arm.model.forward(arm.q).position[1]
        y = -1 if place > 0.2 else 1 if place < -0.15 else y
        arm.act((0, y * 0.05, 0), duration=plan(k))
        arm.run(1 / hz)
    assert_within(arm.wire)
    assert np.linalg.norm(np.diff(arm.wire.p, axis=0), axis=1).mean() / 1e-3 > 0.1  # and it does move


@pytest.fixture
def point_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rule for the whole hand, which keeps its point away from a corner."""
    monkeypatch.setattr(rules, "ARM_RULES", tuple(r for r in rules.ARM_RULES if r.__name__ != "KeepOutArm"))


@pytest.mark.parametrize(
    ("hz", "duration", "lag"),
    [(5, 0.2, 0.0), (5, 0.2, 0.1), (10, 0.2, 0.0), (20, 0.2, 0.0), (50, 0.2, 0.05), (10, 1.0, 0.0)],
)
@pytest.mark.usefixtures("point_only")
def test_round_the_corner_of_a_keep_out_box(hz: int, duration: float, lag: float) -> None:
    """Hazard: 6 to 30 mm inside it, every target outside."""
    cases.round_the_corner(hz, duration, lag)


@pytest.mark.parametrize("off", [0.03, 0.06, 0.09, 0.14])
def test_an_arm_that_was_pushed_aside_does_not_snap_back(off: float) -> None:
    """Hazard: 0.7 m/s back, by an action of zero."""
    arm = cases.pushed_aside(off)
    if off > 0.05:
        assert abs(arm.told[-1] - arm.q).max() < 0.05


@pytest.mark.parametrize("lag", [0.0, 0.1])
@pytest.mark.parametrize("into", [0.04, 0.08, 0.12])
def test_the_driver_held_by_itself(into: float, lag: float) -> None:
    """Hazard: the filter goes on from its old target, at 0.35 to 0.51 m/s; or at full speed, without ramp-in."""
    arm = JudgedArm(lag=lag)
    stream(arm, 6)
    arm.act((0, 0.05, 0))
    arm.run(into)
    arm.press(True, filter_too=False)
    arm.press(False, filter_too=False)
    arm.run(0.2 - into)
    mark = len(arm.told)
    decisions = []
    for _ in range(3):
        decisions.append(arm.act((0, 0.05, 0)))
        arm.run(0.2)
    assert_within(arm.wire)
    assert all("ramp_in" in {r.rule for r in d.reports} for d in decisions if d.command is not None)
    assert arm.since(mark).speed() < 0.2


def test_the_filter_dies_in_mid_motion() -> None:
    """Hazard: nobody watches what is still under way."""
    cases.driver_waits_for_a_silent_filter()


def test_joint_states_end_in_mid_motion() -> None:
    """Hazard: the arm goes on blind, or is thrown back to where it was measured last."""
    cases.joint_states_end()


@pytest.mark.parametrize("kind", FALSE)
@pytest.mark.parametrize("how", ["press", "stop"])
def test_a_false_measurement_before_a_stop(kind: str, how: str) -> None:
    """Hazard: the hold goes to the false position, at 37 rad/s."""
    cases.glitch_before_a_stop(kind, how)


def test_while_the_filter_says_stopped_nothing_moves() -> None:
    """Hazard: a MOVE under way when the stop came, or of a second filter."""
    cases.stop_is_kept()


def test_a_stop_button_that_only_the_driver_hears() -> None:
    """Hazard: the filter goes on."""
    cases.pressed_for_the_driver()


def test_a_button_that_repeats_its_level() -> None:
    """Hazard: each brakes anew, a little less, or a little harder."""
    cases.repeated_press()


@pytest.mark.parametrize("how", ["timeout", "stop"])
def test_a_blocked_arm_is_let_go(how: str) -> None:
    """Hazard: 0.10 m of wind-up pushed for a minute."""
    cases.blocked_arm(how)


def test_an_arm_that_does_not_follow_gets_no_more() -> None:
    """Hazard: the reference runs away from the arm."""
    cases.far_away()


def test_an_arm_that_is_found_elsewhere() -> None:
    """Hazard: a motion back to where it was; or one that begins there, without anybody having looked."""
    cases.displaced()


def test_the_driver_knows_the_arms_own_limits() -> None:
    """Hazard: a filter that is configured wrongly is obeyed."""
    cases.own_limits()


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_path_that_nobody_judged_is_refused(kind: str) -> None:
    """Hazard: another node, an old recording, a bug of the filter's: what does not come next is not executed."""
    assert cases.a_foreign_path() is Outcome.EXECUTING
    assert cases.a_foreign_path(**FOREIGN[kind]) is Outcome.REFUSED


def test_the_driver_knows_how_fast_its_joints_are() -> None:
    """Hazard: the filter has another robot's description."""
    cases.slow_joints()


def test_two_publishers_of_joint_states() -> None:
    """Hazard: the false one is believed now and then, and the arm is let go to where it says."""
    cases.contradicting_publishers()


def test_a_driver_that_starts_while_the_arm_moves() -> None:
    """Hazard: it takes the arm to be at rest where it happens to be, and the filter begins a motion there."""
    cases.driver_starts_in_mid_motion()


def test_motion_that_nobody_commanded() -> None:
    """Hazard: another node's trajectory moves a stopped arm by 0.28 m, in silence."""
    cases.rogue()


def test_a_driver_that_ends_holds_first() -> None:
    """Hazard: Ctrl-C in mid-motion, and the arm goes on with nobody in charge."""
    cases.driver_ends()


def test_a_stop_whose_hold_is_lost() -> None:
    """Hazard: one message on its way, and the arm does not stop."""
    cases.lost_hold()


# ---- random scripts


@settings(
    max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)  # shrinking takes minutes
@given(st.randoms(use_true_random=False), st.integers(1, SEQUENCE))
def test_what_the_arm_is_told_stays_within_its_limits_whatever_happens(rng: Random, events: int) -> None:
    """Hazard: the sequence that nobody thought of.

    What the arm is told at 1 ms: position box, keep-outs, speed, angular speed, acceleration, joint limits and speeds,
    the distance of links, standstill while latched. Commands are lost, late, doubled, out of order; parts restart; the
    arm lags, is blocked, pushed, displaced; measurements are lost or false.
    """
    Script(rng).run(events)


def test_what_the_arm_is_told_in_the_long_run() -> None:
    """The same, without hypothesis, whose memory grows with every example. A failure names its seed."""
    seen: Counter[str] = Counter()
    moved, begin, shown = 0, time.monotonic(), SHOWN
    for seed in range(max(EVENTS // SEQUENCE, 1)):
        script = Script(Random(seed))
        try:
            script.run(SEQUENCE)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        seen += script.seen
        moved += script.moved
        if sum(seen.values()) >= shown:
            shown += SHOWN
            print(f"{sum(seen.values())} events in {time.monotonic() - begin:.0f} s, {moved} moved", flush=True)
    print(dict(seen), moved)
    assert moved > sum(seen.values()) / 3
    assert min(seen[kind] for kind in ("press", "block", "push", "false_states", "go_on")) > 0
