"""What was judged is what moves: filter, driver and arm together, asserted on what the arm is told at 1 ms.

The first half are kinds of trouble by name; the second tries random scripts of them (``SAFETY_EVENTS`` says how many);
the third takes each of the driver's checks away and sees a test of the first half fail.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mink")

from judged_arm import OFFSET, JudgedArm, Wire, config
from judged_script import Script

from openvla_ros.control.safety import State, Verdict
from openvla_ros.drive import driver as driver_module
from openvla_ros.drive import joining
from openvla_ros.drive.driver import Driver, Sending
from openvla_ros.measurement import Plausibility
from openvla_ros.measurement import Verdict as Belief
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Command, Outcome, Pose

SPEED, ACCELERATION = 0.25, 2.5  # [m/s], [m/s^2]
EVENTS = int(os.environ.get("SAFETY_EVENTS", "10000")) // 10
SEQUENCE = 60  # events of one script
SHOWN = 3_000  # events between two lines that say how far it is
POST = {"name": "post", "lower_m": (0.27, -0.05, 0.0), "upper_m": (0.33, 0.05, 0.30)}


def assert_within(wire: Wire, speed: float = SPEED) -> None:
    assert wire.speed() <= 1.01 * speed
    assert wire.acceleration() <= 1.06 * ACCELERATION
    assert wire.joint_speed() <= 0.95
    assert wire.turning() <= 1.25 * 1.02


def stream(arm: JudgedArm, count: int, step: Any = (0, 0.05, 0)) -> None:
    for _ in range(count):
        arm.act(step)
        arm.run(0.2)


# ---- kinds of trouble


def lost_command(lost: int = 1) -> JudgedArm:
    arm, number = JudgedArm(), itertools.count(1)

    def carry(command: Command, now: float) -> list[tuple[Command, float]]:
        if command.hold:
            return [(command, 0.0)]
        return [] if 8 <= next(number) < 8 + lost else [(command, 0.0)]

    arm.carry = carry
    stream(arm, 14)
    stream(arm, 3, (0, -0.05, 0))
    assert_within(arm.wire)
    return arm


@pytest.mark.parametrize("lost", [1, 2, 5])
def test_a_lost_command(lost: int) -> None:
    """Hazard: 0.50 m/s at a limit of 0.25, and through the corner of a keep-out box."""
    arm = lost_command(lost)
    assert any(command.hold for command in arm.commands)
    assert sum(d.verdict is not Verdict.REFUSED for d in arm.decisions if d.raw is not None) > 8  # and it goes on


def late_commands(delay: float = 0.05) -> None:
    arm = JudgedArm()
    arm.carry = lambda command, now: [(command, 0.0 if command.sequence % 4 else delay)]
    stream(arm, 13)
    assert_within(arm.wire)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08])
def test_commands_that_are_late_now_and_then(delay: float) -> None:
    """Hazard: what is late is caught up with."""
    late_commands(delay)


@pytest.mark.parametrize("delay", [0.02, 0.05, 0.08])
def test_commands_that_are_always_late(delay: float) -> None:
    """Hazard: a path that has begun elsewhere when it comes; or nothing moves at all within the time that is given."""
    arm = JudgedArm()
    arm.carry = lambda command, now: [(command, delay)]
    stream(arm, 10)
    assert_within(arm.wire)
    if delay <= 0.03:
        assert arm.wire.p[-1, 1] - arm.wire.p[0, 1] > 0.2


def late_and_slow() -> None:
    arm = JudgedArm(safety=config(motion={"max_speed_m_s": 0.05}))
    arm.carry = lambda command, now: [(command, 0.0 if command.sequence % 2 else 0.09)]
    for _ in range(15):
        arm.act((0, 0.05, 0), duration=0.5)
        arm.run(0.1)
    assert_within(arm.wire, speed=0.051)


def test_late_commands_of_a_slow_filter() -> None:
    """Hazard: within what the arm may, and faster than what was judged."""
    late_and_slow()


def reordered(seed: int = 0) -> None:
    rng, arm = Random(seed), JudgedArm()
    arm.carry = lambda command, now: [(command, rng.choice([0.0, 0.0, 0.1])) for _ in range(rng.choice([1, 1, 2]))]
    for k in range(30):
        arm.act((0, 0.03 if k % 8 < 4 else -0.03, 0))
        arm.run(rng.choice([0.03, 0.05, 0.2]))
    arm.run(0.5)
    assert_within(arm.wire)


@pytest.mark.parametrize("seed", range(3))
def test_commands_twice_and_in_another_order(seed: int) -> None:
    """Hazard: a path of before takes over from a newer one."""
    reordered(seed)


def hold_overtakes_the_first_move() -> None:
    """A MOVE that begins from rest and comes after the HOLD that followed it."""
    arm = JudgedArm()
    arm.carry = lambda command, now: [(command, 0.0 if command.hold else 0.05)]
    arm.act((0, 0.05, 0))
    arm._pass_on(arm.filter.stop("somebody", arm.now))
    arm.driver.heard_filter(arm.now + OFFSET, False)  # its status is slower than its commands
    arm.filter_alive = False
    arm.run(0.1)
    assert arm.driver.outcome is Outcome.HELD
    assert arm.wire.speed() == 0.0


def test_a_hold_that_overtakes_a_move() -> None:
    """Hazard: the arm is told to hold, and moves."""
    hold_overtakes_the_first_move()


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


def round_the_corner(hz: int, duration: float, lag: float) -> None:
    arm = JudgedArm(safety=config(keep_out=[POST]), lag=lag)
    for goal in ([0.3, -0.055, 0.2], [0.335, -0.055, 0.2], [0.335, 0.055, 0.2]):
        for _ in range(2 * hz):
            accepted = arm.filter._accepted
            way = goal - (accepted.target.position if accepted else arm.model.forward(arm.q).position)
            distance = float(np.linalg.norm(way))
            if distance < 0.002:
                break
            arm.act(way / distance * min(distance, 0.05), duration=duration)
            arm.run(1 / hz)
    assert arm.wire.depth(POST) < 0
    assert arm.wire.depth(POST) > -0.02
    assert_within(arm.wire)


@pytest.mark.parametrize(
    ("hz", "duration", "lag"),
    [(5, 0.2, 0.0), (5, 0.2, 0.1), (10, 0.2, 0.0), (20, 0.2, 0.0), (50, 0.2, 0.05), (10, 1.0, 0.0)],
)
def test_round_the_corner_of_a_keep_out_box(hz: int, duration: float, lag: float) -> None:
    """Hazard: 6 to 30 mm inside it, every target outside."""
    round_the_corner(hz, duration, lag)


def pushed_aside(off: float) -> JudgedArm:
    arm = JudgedArm()
    stream(arm, 6, (0, 0.02, 0))
    arm.blocked = True
    for _ in range(20):  # by hand, at a pace that an arm can have
        at = arm.kinematics.forward(arm.q)
        arm.q = arm.kinematics.solve(Pose(at.position - [0, off / 20, 0], at.quaternion), arm.q)
        arm.run(0.01)
    mark = len(arm.told)
    arm.run(1.5)
    arm.act((0, 0, 0))
    arm.blocked = False
    arm.run(1.0)
    arm.act((0, 0, 0))
    arm.run(1.0)
    assert_within(arm.since(mark), speed=0.15)
    return arm


@pytest.mark.parametrize("off", [0.03, 0.06, 0.09, 0.14])
def test_an_arm_that_was_pushed_aside_does_not_snap_back(off: float) -> None:
    """Hazard: 0.7 m/s back, by an action of zero."""
    arm = pushed_aside(off)
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


def driver_waits_for_a_silent_filter() -> None:
    arm = JudgedArm()
    stream(arm, 3)
    arm.act((0, 0.05, 0), duration=2.0)
    arm.run(0.1)
    arm.filter_alive = False
    mark = len(arm.told)
    arm.run(1.5)
    assert arm.driver.outcome is Outcome.HELD
    assert_within(arm.wire)
    assert arm.since(mark + 350).speed() == 0.0


def test_the_filter_dies_in_mid_motion() -> None:
    """Hazard: nobody watches what is still under way."""
    driver_waits_for_a_silent_filter()


def joint_states_end() -> None:
    arm = JudgedArm()
    stream(arm, 3)
    arm.act((0, 0.05, 0), duration=2.0)
    arm.run(0.1)
    arm.measure = lambda q: None
    arm.carry = lambda command, now: []
    mark = len(arm.told)
    arm.run(1.0)
    assert_within(arm.wire)
    assert arm.since(mark + 350).speed() == 0.0


def test_joint_states_end_in_mid_motion() -> None:
    """Hazard: the arm goes on blind, or is thrown back to where it was measured last."""
    joint_states_end()


FALSE = {
    "zeros": lambda q: np.zeros(6),
    "-pi": lambda q: np.full(6, -math.pi),
    "off": lambda q: q + 0.5,
    "1e6": lambda q: np.full(6, 1e6),
}


def glitch_before_a_stop(kind: str, how: str) -> None:
    arm = JudgedArm()
    stream(arm, 6, (0, 0.03, 0))
    arm.act((0, 0.03, 0))
    arm.run(0.08)
    before = arm.wire.p[-1]
    mark = len(arm.told)
    arm.measure = FALSE[kind]
    arm.run(0.01)
    arm.measure = lambda q: q
    if how == "press":
        arm.press(True)
    else:
        arm._pass_on(arm.filter.stop("somebody", arm.now))
    arm.run(0.5)
    wire = arm.since(mark)
    assert_within(wire)
    assert np.linalg.norm(wire.p[-1] - before) < 0.02
    assert arm.since(mark + 200).speed() == 0.0


@pytest.mark.parametrize("kind", FALSE)
@pytest.mark.parametrize("how", ["press", "stop"])
def test_a_false_measurement_before_a_stop(kind: str, how: str) -> None:
    """Hazard: the hold goes to the false position, at 37 rad/s."""
    glitch_before_a_stop(kind, how)


def stop_is_kept() -> None:
    """By the driver too: a filter that is stopped, and a command that comes nevertheless."""
    arm = JudgedArm()
    stream(arm, 4)
    arm._pass_on(arm.filter.stop("somebody", arm.now))
    arm.run(0.4)
    assert foreign_path(arm) is Outcome.REFUSED


def test_while_the_filter_says_stopped_nothing_moves() -> None:
    """Hazard: a MOVE under way when the stop came, or of a second filter."""
    stop_is_kept()


def pressed_for_the_driver() -> None:
    arm = JudgedArm()
    stream(arm, 4)
    arm.press(True, filter_too=False)
    arm.run(0.4)
    mark = len(arm.told)
    stream(arm, 4)
    assert arm.since(mark).speed() == 0.0


def test_a_stop_button_that_only_the_driver_hears() -> None:
    """Hazard: the filter goes on."""
    pressed_for_the_driver()


def repeated_press() -> None:
    arm = JudgedArm()
    stream(arm, 4)
    mark = len(arm.told)
    for _ in range(30):
        arm.press(True)
        arm.run(0.01)
    wire = arm.since(mark)
    assert_within(wire)
    assert np.linalg.norm(wire.p[-1] - wire.p[0]) < 0.02
    assert arm.since(mark + 150).speed() == 0.0


def test_a_button_that_repeats_its_level() -> None:
    """Hazard: each brakes anew, a little less, or a little harder."""
    repeated_press()


def blocked_arm(how: str = "timeout") -> None:
    arm = JudgedArm()
    arm.blocked = True
    stream(arm, 5, (0, 0.03, 0))
    if how == "stop":
        arm.press(True)
    wound_up = float(np.linalg.norm(arm.wire.p[-1] - arm.model.forward(arm.q).position))
    mark = len(arm.told)
    arm.run(6.0)
    assert wound_up > 0.05
    assert abs(arm.told[-1] - arm.q).max() < 1e-6
    assert_within(arm.since(mark), speed=0.15)
    assert arm.since(mark).joint_speed() < 0.15


@pytest.mark.parametrize("how", ["timeout", "stop"])
def test_a_blocked_arm_is_let_go(how: str) -> None:
    """Hazard: 0.10 m of wind-up pushed for a minute."""
    blocked_arm(how)


def far_away() -> None:
    """An arm that does not follow any more, and a driver that hears of it only by what it measures."""
    arm = JudgedArm()
    stream(arm, 2, (0, 0.02, 0))
    arm.blocked = True
    arm.driver._let_go = lambda now: None  # type: ignore[method-assign]
    for _ in range(25):
        arm.q = arm.q - np.eye(6)[0] * 0.015
        arm.run(0.01)
    command = arm.commands[-1]
    assert command.path is not None
    arm.filter_alive = False
    path = Trajectory.at_rest(arm.controller.last, arm.now + OFFSET).followed_by(
        Trajectory(arm.now + OFFSET + np.array([0.03, 0.5]), np.stack([arm.controller.last] * 2), np.zeros((2, 6))),
        arm.now + OFFSET,
    )
    arm.driver.on_command(Command(command.target, 1.0, 0.5, command.sequence + 5, path=path), 0.0, arm.now + OFFSET)
    assert arm.driver.outcome is Outcome.REFUSED


def test_an_arm_that_does_not_follow_gets_no_more() -> None:
    """Hazard: the reference runs away from the arm."""
    far_away()


def displaced() -> None:
    arm = JudgedArm()
    stream(arm, 4)
    arm.run(1.0)
    arm.q = arm.q + np.eye(6)[0] * 0.6
    arm.blocked = True
    arm.run(0.6)
    assert arm.filter.state is State.STOPPED
    mark = len(arm.told)
    arm.act((0, 0.05, 0))
    arm.press(True)
    arm.press(False)
    arm.run(1.0)
    assert arm.since(mark).speed() == 0.0
    arm.controller = Trajectory.at_rest(arm.q, arm.now)
    arm.blocked = False
    assert arm.reset()[0]
    arm.run(0.1)
    assert arm.filter.resume(arm.now)[0]
    mark = len(arm.told)
    stream(arm, 4)
    assert_within(arm.since(mark))
    assert arm.since(mark).speed() > 0.05


def test_an_arm_that_is_found_elsewhere() -> None:
    """Hazard: a motion back to where it was; or one that begins there, without anybody having looked."""
    displaced()


def own_limits() -> None:
    """A filter that was given four times the speed."""
    arm = JudgedArm(safety=config(motion={"max_speed_m_s": 1.0, "max_step_m": 0.2}, tracking={"max_error_m": 0.3}))
    stream(arm, 6, (0, 0.15, 0))
    assert_within(arm.wire)


def test_the_driver_knows_the_arms_own_limits() -> None:
    """Hazard: a filter that is configured wrongly is obeyed."""
    own_limits()


def foreign_path(arm: JudgedArm, **changes: Any) -> Outcome:
    """A path that nobody judged: what comes of it. Refused, it moves nothing."""
    now, q = arm.now + OFFSET, arm.controller.at(arm.now)[0]
    begin, end, seconds = changes.get("begin", 0.0), changes.get("end", 0.02), changes.get("seconds", 0.5)
    start = now + changes.get("start", 0.03)
    speeds = np.zeros((2, 6))
    speeds[0] = changes.get("speed", 0.0)
    path = Trajectory(np.array([start, start + seconds]), np.stack([q + begin, q + end]), speeds)
    command = Command(arm.commands[-1].target, 1.0, seconds, 90, path=path, continues=changes.get("continues", 0))
    mark, end_of_told = len(arm.told), arm.controller.last
    arm._send(arm.driver.on_command(command, changes.get("age", 0.0), now))
    outcome = arm.driver.outcome
    arm.run(0.15)
    if outcome is Outcome.REFUSED:
        assert arm.since(mark).speed() == 0.0 or abs(arm.controller.last - end_of_told).max() < 0.05
    return outcome


def a_foreign_path(**changes: Any) -> Outcome:
    arm = JudgedArm()
    arm.act((0, 0.01, 0))
    arm.run(1.0)
    arm.filter_alive = False
    mark = len(arm.told)
    outcome = foreign_path(arm, **changes)
    assert outcome is Outcome.EXECUTING or arm.since(mark).speed() == 0.0
    return outcome


FOREIGN: dict[str, dict[str, Any]] = {
    "gap": {"continues": 17},
    "elsewhere": {"begin": 0.03, "end": -0.05, "seconds": 2.0},
    "in motion": {"speed": 0.4 * np.eye(6)[5]},
    "hard": {"end": 0.01 * np.eye(6)[0], "seconds": 0.05},
    "late": {"age": 0.3},
    "early": {"age": -0.3},
    "far ahead": {"start": 2.0},
    "range": {"end": 3.6 * np.eye(6)[5], "seconds": 14.0},
    "speed": {"end": 0.9 * np.eye(6)[0], "seconds": 1.0},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_path_that_nobody_judged_is_refused(kind: str) -> None:
    """Hazard: another node, an old recording, a bug of the filter's: what does not come next is not executed."""
    assert a_foreign_path() is Outcome.EXECUTING
    assert a_foreign_path(**FOREIGN[kind]) is Outcome.REFUSED


def slow_joints() -> None:
    arm = JudgedArm()
    joints = tuple(joint.model_copy(update={"max_velocity": 0.1}) for joint in arm.robot.joints)
    arm.robot = arm.robot.model_copy(update={"joints": joints})
    arm.new_driver()
    arm.run(0.1)
    stream(arm, 6)
    assert arm.wire.joint_speed() <= 1.06


def test_the_driver_knows_how_fast_its_joints_are() -> None:
    """Hazard: the filter has another robot's description."""
    slow_joints()


def contradicting_publishers() -> None:
    arm = JudgedArm()
    stream(arm, 4)
    arm.press(True)
    arm.run(0.3)
    mark, turn = len(arm.told), itertools.count()
    arm.measure = lambda q: q if next(turn) % 9 < 2 else q + 0.3
    arm.run(3.0)
    assert arm.since(mark).speed() == 0.0


def test_two_publishers_of_joint_states() -> None:
    """Hazard: the false one is believed now and then, and the arm is let go to where it says."""
    contradicting_publishers()


def driver_starts_in_mid_motion() -> None:
    arm = JudgedArm()
    stream(arm, 3)
    arm.act((0, 0.05, 0), duration=0.5)
    arm.run(0.1)
    arm.new_driver()
    arm.filter_alive = False
    arm.run(0.05)
    told = arm.driver.told(arm.now + OFFSET)
    assert told is not None
    assert not told.at_rest
    assert foreign_path(arm) is Outcome.REFUSED


def test_a_driver_that_starts_while_the_arm_moves() -> None:
    """Hazard: it takes the arm to be at rest where it happens to be, and the filter begins a motion there."""
    driver_starts_in_mid_motion()


def rogue() -> None:
    arm = JudgedArm()
    stream(arm, 2)
    arm._pass_on(arm.filter.stop("somebody", arm.now))
    arm.run(1.5)
    arm.controller = Trajectory(np.array([arm.now, arm.now + 1.0]), np.stack([arm.q, arm.q + 0.15]), np.zeros((2, 6)))
    arm.run(1.2)
    assert "nobody commanded" in arm.driver.unexpected
    assert "unexpected_motion" in {report.rule for report in arm.decisions[-1].reports}


def test_motion_that_nobody_commanded() -> None:
    """Hazard: another node's trajectory moves a stopped arm by 0.28 m, in silence."""
    rogue()


def driver_ends() -> None:
    arm = JudgedArm()
    stream(arm, 2)
    arm.act((0, 0.05, 0), duration=2.0)
    arm.run(0.1)
    mark = len(arm.told)
    arm._send(arm.driver.end(arm.now + OFFSET))
    arm.driver_alive = False
    arm.run(0.5)
    assert_within(arm.since(mark))
    assert arm.since(mark + 150).speed() == 0.0


def test_a_driver_that_ends_holds_first() -> None:
    """Hazard: Ctrl-C in mid-motion, and the arm goes on with nobody in charge."""
    driver_ends()


def lost_hold() -> None:
    arm = JudgedArm()
    stream(arm, 2)
    arm.act((0, 0.05, 0), duration=2.0)
    arm.run(0.1)
    arm.carry = lambda command, now: []
    arm._pass_on(arm.filter.stop("somebody", arm.now))
    mark = len(arm.told)
    arm.run(0.5)
    assert_within(arm.since(mark))
    assert arm.since(mark + 150).speed() == 0.0


def test_a_stop_whose_hold_is_lost() -> None:
    """Hazard: one message on its way, and the arm does not stop."""
    lost_hold()


# ---- random scripts


@settings(max_examples=15, deadline=None)
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


# ---- each check is missed


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _no_obstacle(without: str) -> Callable[[pytest.MonkeyPatch], None]:
    """The driver without one of the reasons of ``_obstacle``."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        before = Driver._obstacle
        monkeypatch.setattr(Driver, "_obstacle", lambda *a: "" if without in (why := before(*a)) else why)

    return patch


def _config(**changes: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """A tolerance that lets everything pass."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        init = Driver.__init__

        def made(self: Driver, robot: Any, kinematics: Any, settings: Any) -> None:
            init(self, robot, kinematics, settings.model_copy(update=changes))

        monkeypatch.setattr(Driver, "__init__", made)

    return patch


def _attribute(where: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(where, name, value)


def _continues_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Driver._continued

    def continued(self: Driver, command: Command, now: float) -> Any:
        self._running = command.continues
        return before(self, command, now)

    monkeypatch.setattr(Driver, "_continued", continued)


def _overtaken_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Driver.on_command

    def on_command(self: Driver, command: Command, age: float, now: float) -> Sending | None:
        self._decided = -math.inf
        return before(self, command, age, now)

    monkeypatch.setattr(Driver, "on_command", on_command)


def _stops_at_once(told: Trajectory, now: float, *_: Any) -> Trajectory:
    return Trajectory.at_rest(told.at(now)[0], now)


def _holds_where_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Driver, now: float) -> Sending | None:
        assert self._state is not None
        self._told = Trajectory.at_rest(self._state.joint_positions, now)
        return Sending(self._told)

    monkeypatch.setattr(Driver, "_stop", stop)


def _believes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plausibility, "judge", lambda self, q, stamp: Belief())
    _holds_where_measured(monkeypatch)


def _brakes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stop as if it were the first: with a fresh, and shorter, path each time."""
    before = Driver._stop

    def stop(self: Driver, now: float) -> Sending | None:
        self._stopping = None
        if self._told is not None and not self._told.rests(now):
            self._told = Trajectory(
                np.array([now, now + 0.1]),
                np.stack([self._told.at(now)[0], self._told.at(now)[0] + 0.05 * self._told.at(now)[1]]),
                np.stack([self._told.at(now)[1], np.zeros(6)]),
            )
            return Sending(self._told)
        return before(self, now)

    monkeypatch.setattr(Driver, "_stop", stop)


def _stop_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Driver.heard_filter
    monkeypatch.setattr(Driver, "heard_filter", lambda self, now, stopped=None: before(self, now))


def _refused(kind: str) -> Callable[[], None]:
    def check() -> None:
        assert a_foreign_path(**FOREIGN[kind]) is Outcome.REFUSED

    return check


Patch = Callable[[pytest.MonkeyPatch], None]
CHECKS: dict[str, tuple[Patch, Callable[[], Any]]] = {
    "continues": (_continues_ignored, _refused("gap")),
    "start gap": (_config(start_tolerance=1e3), _refused("elsewhere")),
    "speed jump": (_config(start_speed_tolerance=1e3), _refused("in motion")),
    "way across": (_attribute(joining, "_jerk", lambda *_: ""), _refused("hard")),
    "catching up": (_attribute(joining, "_hurry", lambda *_: ""), late_and_slow),
    "age": (_no_obstacle("s old"), _refused("late")),
    "future": (_no_obstacle("in the future"), _refused("early")),
    "start time": (_attribute(driver_module, "_EARLIEST", 1e3), _refused("far ahead")),
    "own limits": (_attribute(Driver, "_own_limits", lambda *_: ""), own_limits),
    "joint range": (_attribute(driver_module, "_RANGE_SLACK", 1e3), _refused("range")),
    "joint speed": (_attribute(Driver, "_own_limits", lambda *_: ""), slow_joints),
    "Cartesian speed": (_attribute(Driver, "_own_limits", lambda *_: ""), _refused("speed")),
    "pressed": (_no_obstacle("the e-stop is pressed"), pressed_for_the_driver),
    "stopped": (_no_obstacle("the safety filter is stopped"), stop_is_kept),
    "filter's silence": (_config(filter_timeout=1e3), driver_waits_for_a_silent_filter),
    "joint states' silence": (_config(state_timeout=1e3), joint_states_end),
    "overtaken": (_overtaken_taken, hold_overtakes_the_first_move),
    "plausibility": (_believes_all, lambda: glitch_before_a_stop("-pi", "press")),
    "hold along the path": (_holds_where_measured, lambda: blocked_arm("stop")),
    "braking": (_attribute(driver_module, "braked", _stops_at_once), repeated_press),
    "reference": (_config(reference_tolerance=1e3), far_away),
    "letting go": (_attribute(Driver, "_let_go", _nothing), lambda: blocked_arm("timeout")),
    "letting go after a hold": (_attribute(Driver, "_let_go", _nothing), lambda: blocked_arm("stop")),
    "slowly": (_attribute(driver_module, "_LET_GO_SPEED", 1e3), lambda: pushed_aside(0.14)),
    "elsewhere": (_attribute(Driver, "_find_elsewhere", _nothing), displaced),
    "doubt": (_attribute(Driver, "_is_doubtful", lambda *_: False), contradicting_publishers),
    "moved by another": (_attribute(Driver, "_drifts", False), driver_starts_in_mid_motion),
    "unexpected motion": (_attribute(Driver, "_notice_motion", _nothing), rogue),
    "the end": (_attribute(Driver, "end", _nothing), driver_ends),
    "the filter's word": (_stop_unheard, lost_hold),
    "the same stop again": (_brakes_again, repeated_press),
}


@pytest.mark.parametrize("name", CHECKS)
def test_no_check_can_be_taken_away_unnoticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: a check that does nothing, or whose test cannot fail."""
    patch, scenario = CHECKS[name]
    scenario()
    patch(monkeypatch)
    with pytest.raises(AssertionError):
        scenario()
