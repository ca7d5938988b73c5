"""The driver by itself: stops, silence, false measurements, an arm that is blocked, displaced or moved by another."""

from __future__ import annotations

import math

import numpy as np
import pytest
from drive_scene import FAST, HOME, ROS_TIME, CartesianArm, Drive, assert_braked, moving, slowly

from openvla_ros.drive.driver import Driver, DriverConfig
from openvla_ros.types import Array, Outcome


@pytest.fixture
def drive() -> Drive:
    drive = Drive()
    drive.go(0.1)
    return drive


def test_joint_states_with_the_same_stamp_are_not_fresh(drive: Drive) -> None:
    """Hazard: a bridge repeats its last joint state while the arm's bus is dead; every message looks like life."""
    drive.move(seconds=0.6)
    drive.frozen = drive.now + ROS_TIME
    assert len(drive.go(0.5)) == 1
    assert "no joint states" in drive.driver.detail
    assert "no joint states" in drive.refused()


@pytest.mark.parametrize(("silent", "said"), [("filter", "safety filter was silent"), ("states", "no joint states")])
def test_silence_in_a_motion_gives_exactly_one_hold(drive: Drive, silent: str, said: str) -> None:
    """Hazard: the filter or the joint states die in mid-motion and the arm goes on, is thrown back to where it was
    measured last; or holds rain down at 50 Hz."""
    drive.move((0.25, 0, 0), 1.0)
    drive.go(0.3)
    setattr(drive, silent, False)
    assert drive.go(0.19) == []
    begin = drive.now
    (stop,) = drive.go(0.5)
    assert drive.driver.outcome is Outcome.HELD
    assert said in drive.driver.detail
    assert 0.0 < stop.start - begin < 0.03
    assert 0.3 + FAST * 0.45 < stop.last[0] < 0.3 + FAST * 0.5


def test_silence_is_told_also_while_nothing_moves(drive: Drive) -> None:
    """Hazard: a diagnostic that says "arrived" of an arm whose driver, or whose filter, died since."""
    assert drive.driver.missing(drive.now) == ""
    drive.filter = False
    drive.go(0.3)
    assert "safety filter was silent" in drive.driver.missing(drive.now)
    drive.filter, drive.states = True, False
    drive.go(0.3)
    assert "no joint states" in drive.driver.missing(drive.now)
    assert "no joint states" in drive.refused()


def test_a_refused_command_ends_what_was_under_way(drive: Drive) -> None:
    """Hazard: a command is refused while the one before is moving the arm, and nobody knows where it will end."""
    moving(drive)
    stop = drive.move(age=1.0)
    assert_braked(drive, stop)
    assert drive.driver.outcome is Outcome.REFUSED


def test_a_refused_command_does_not_arrive(drive: Drive) -> None:
    """Hazard: blocking control takes the arrival of the motion before for that of the command that was refused."""
    drive.move()
    drive.go(0.3)
    drive.refused(age=1.0)
    drive.go(1.0)
    assert drive.driver.outcome is Outcome.REFUSED


def test_without_joint_states_an_arm_at_rest_is_left_alone(drive: Drive) -> None:
    """Hazard: the e-stop is pressed long after the arm's driver died; a hold at an old measurement moves it."""
    drive.states = False
    drive.go(1.0)
    assert drive.press() is None
    assert drive.driver.outcome is Outcome.HELD


def test_pressed_e_stop_brakes_at_once_and_refuses(drive: Drive) -> None:
    """Hazard: the e-stop reaches the driver and the arm still finishes its motion, or starts the next."""
    moving(drive)
    assert_braked(drive, drive.press())
    assert drive.driver.outcome is Outcome.HELD
    drive.go(0.3)
    assert "e-stop" in drive.refused()
    assert drive.press(False) is None
    assert drive.move() is not None


def test_a_stopped_filter_holds_and_nothing_passes(drive: Drive) -> None:
    """Hazard: the HOLD of a stop is lost, or a MOVE comes after it."""
    moving(drive)
    assert_braked(drive, drive.keep(drive.driver.heard_filter(drive.now, True)))
    assert "the safety filter is stopped" in drive.driver.detail
    drive.stopped = True
    drive.go(0.5)
    assert "the safety filter is stopped" in drive.refused()
    drive.stopped = None  # a sign of life that does not say
    drive.go(0.1)
    assert "the safety filter is stopped" in drive.refused()
    drive.stopped = False
    drive.go(0.1)
    assert drive.move() is not None


@pytest.mark.parametrize("every", [0.01, 0.1])
def test_a_repeated_stop_changes_nothing(drive: Drive, every: float) -> None:
    """Hazard: a button that publishes its level. Each stop anew brakes harder, or later; or each hold at what is
    measured loses the controller's lag once more, and the arm creeps down. Refused commands change nothing."""
    moving(drive)
    first = drive.press()
    assert first is not None
    fine = drive.now + np.arange(0.0, 3.0, 1e-3)
    expected = first.sampled(fine)[0]
    drive.follows = False
    for i in range(round(2.0 / every)):
        drive.go(every)
        drive.q = drive.told - [0, 0, 0.01, 0, 0, 0]  # droops below what is told
        if i % 3 == 0:
            drive.driver.on_command(drive.made(), 0.01, drive.now)
        drive.press()
        later = fine >= drive.now
        np.testing.assert_allclose(drive.sent[-1].sampled(fine[later])[0], expected[later], atol=1e-9)


def test_a_second_stop_is_where_the_arm_is_then(drive: Drive) -> None:
    """Hazard: what keeps a repeated stop in place keeps a new one from stopping where the arm is."""
    drive.press()
    drive.press(False)
    moving(drive)
    assert_braked(drive, drive.press())


def test_a_held_arm_is_told_to_be_within_its_range(drive: Drive) -> None:
    """Hazard: a joint that was pushed over its limit, and a hold that the controller rejects."""
    drive.q = np.array([0.3, drive.robot.upper[1] + 0.05, 0.2, 0, 0, 0])
    drive.driver = Driver(drive.robot, CartesianArm(), DriverConfig())
    drive.go(0.1)
    stop = drive.hold()
    assert stop is not None
    assert stop.last[1] == drive.robot.upper[1]


def test_motions_start_from_what_the_controller_was_told(drive: Drive) -> None:
    """Hazard: each motion starts from the measured joints, which lag: the arm sags by the lag in every step."""
    drive.move()
    drive.go(0.5)
    drive.follows = False
    drive.q = drive.told - [0, 0, 0.02, 0, 0, 0]
    drive.go(0.02)
    told = drive.driver.told(drive.now)
    assert told is not None
    assert told.at_rest
    np.testing.assert_allclose(told.reference, HOME + np.array([0.04, 0, 0, 0, 0, 0]), atol=1e-9)
    drive.course = None
    path = drive.move()
    assert path is not None
    assert path.last[2] == pytest.approx(0.2)


def test_an_arm_that_is_far_from_where_it_is_told_to_be_gets_no_command(drive: Drive) -> None:
    """Hazard: a blocked arm is wound up ever further."""
    drive.move()
    drive.go(0.5)
    drive.follows = False
    for _ in range(30):
        drive.q = drive.q - [0, 0.01, 0, 0, 0, 0]
        drive.go(0.01)
    drive.course = None
    assert "0.30 rad from where it is told to be" in drive.refused()


def test_arrival_is_measured(drive: Drive) -> None:
    """Hazard: 'blocking' that only waits for the motion's duration."""
    drive.follows = False
    drive.move()
    drive.go(1.0)
    assert drive.driver.outcome is Outcome.EXECUTING
    drive.follows = True
    drive.go(0.2)
    assert drive.driver.outcome is Outcome.ARRIVED
    assert drive.now - 0.2 < drive.driver.outcome_stamp - ROS_TIME < drive.now + 0.01


@pytest.mark.parametrize("way", [0.05, 0.02])
def test_a_blocked_arm_times_out_and_is_let_go(drive: Drive, way: float) -> None:
    """Hazard: an arm against an obstacle is pushed on for ever; or let go with a jerk."""
    drive.follows = False
    drive.move((way, 0, 0), 0.25)
    sent = drive.go(3.0)
    assert drive.driver.outcome is Outcome.TIMED_OUT
    assert "not at the target 2 s after" in drive.driver.detail
    (let_go,) = sent
    np.testing.assert_allclose(let_go.positions[0], HOME + np.array([way, 0, 0, 0, 0, 0]), atol=1e-9)
    np.testing.assert_allclose(let_go.last, HOME)
    assert slowly(let_go)
    assert drive.go(5.0) == []


@pytest.mark.parametrize("how", ["press", "hold", "refused"])
def test_a_held_arm_that_is_blocked_is_let_go_once(drive: Drive, how: str) -> None:
    """Hazard: the wind-up of a blocked arm pushes on through a stop; or an arm that droops is let down step by step."""
    drive.follows = False
    drive.move((0.05, 0, 0), 0.25)
    drive.go(0.5)
    if how == "refused":
        drive.refused(age=1.0)
    else:
        getattr(drive, how)()
    assert drive.go(0.4) == []
    (let_go,) = drive.go(0.3)
    np.testing.assert_allclose(let_go.last, HOME)
    assert slowly(let_go)
    drive.follows = True
    drive.go(0.6)
    drive.follows = False
    drive.q = drive.told - [0, 0, 0.05, 0, 0, 0]
    assert drive.go(3.0) == []


def test_a_small_droop_is_held(drive: Drive) -> None:
    """Hazard: an arm that hangs below what it is told is let down, and down again."""
    drive.move()
    drive.go(0.5)
    drive.hold()
    drive.follows = False
    drive.q = drive.told - [0, 0, 0.02, 0, 0, 0]
    assert drive.go(3.0) == []


def test_time_runs_out_without_joint_states_too() -> None:
    """Hazard: a blocking loop that waits for ever because the outcome is only looked at when joint states come."""
    drive = Drive(arrival={"timeout": 0.1}, state_timeout=1.0)
    drive.go(0.1)
    drive.follows = False
    drive.move()
    drive.states = False
    drive.go(0.6)
    assert drive.driver.outcome is Outcome.TIMED_OUT


def test_a_hold_of_the_filter_is_obeyed_however_late(drive: Drive) -> None:
    """Hazard: a stop is checked like a motion, and refused."""
    moving(drive)
    drive.sequence = -10  # older than what is under way, too
    assert_braked(drive, drive.hold(age=float("nan")))
    assert drive.driver.outcome is Outcome.HELD
    assert drive.go(1.0) == []


FALSE = [
    np.full(6, -math.pi),
    np.zeros(6),
    HOME + np.array([0, 0.5, 0, 0, 0, 0]),
    np.full(6, math.nan),
    np.full(6, math.inf),
    HOME + np.array([0, 0, 0, 1e6, 0, 0]),
]


@pytest.mark.parametrize("false", FALSE)
@pytest.mark.parametrize("stop", ["press", "hold"])
def test_a_false_measurement_is_no_place_to_hold_at(drive: Drive, stop: str, false: Array) -> None:
    """Hazard: all joints at -pi, zeros from a second publisher, a leap: an e-stop then threw the arm there at 37
    rad/s."""
    moving(drive)
    assert not drive.driver.on_state(drive.state(false, drive.now + 0.001 + ROS_TIME), drive.now)
    assert drive.driver.unbelieved
    assert_braked(drive, getattr(drive, stop)())


@pytest.mark.parametrize("false", FALSE)
def test_a_false_measurement_is_no_place_to_start_from(drive: Drive, false: Array) -> None:
    """Hazard: the first motion after a start, or after a hold, begins where the arm is not."""
    for again in range(2):
        assert not drive.driver.on_state(drive.state(false, drive.now + 0.001 + ROS_TIME), drive.now)
        told = drive.driver.told(drive.now)
        assert told is not None
        np.testing.assert_allclose(told.reference, HOME, atol=1e-9)
        assert drive.press() is None  # where the arm is is not known; it rests
        drive.press(False)
        assert "is not known" in drive.refused()
        drive.go(0.6)
        if not again:
            assert drive.hold() is not None
    assert drive.move() is not None


def test_only_false_measurements_count_as_none(drive: Drive) -> None:
    """Hazard: a bus that fails for good keeps the motion going."""
    drive.move((0.25, 0, 0), 1.0)
    drive.go(0.1)
    drive.states = False
    for _ in range(30):
        drive.now += 0.01
        drive.keep(drive.driver.heard_filter(drive.now))
        drive.driver.on_state(drive.state(np.full(6, -math.pi)), drive.now)
        drive.keep(drive.driver.tick(drive.now))
    assert drive.driver.outcome is Outcome.HELD
    assert "outside its range" in drive.driver.missing(drive.now)


def test_a_first_measurement_that_is_false_is_not_believed() -> None:
    """Hazard: the driver starts while the arm's bus fails."""
    drive = Drive()
    for false in (np.full(6, -math.pi), np.full(6, math.nan)):
        drive.now += 0.01
        assert not drive.driver.on_state(drive.state(false), drive.now)
        assert drive.driver.told(drive.now) is None
        assert drive.press() is None
    assert not drive.driver.on_state(drive.state(stamp=math.nan), drive.now)
    drive.go(0.05)
    told = drive.driver.told(drive.now)
    assert told is not None
    np.testing.assert_array_equal(told.reference, HOME)


def test_an_older_state_never_replaces_a_newer_one(drive: Drive) -> None:
    """Hazard: joint states that overtake each other: the arm seems to be where it was."""
    moving(drive)
    old = drive.state(HOME, drive.now - 0.05 + ROS_TIME)
    assert not drive.driver.on_state(old, drive.now)
    assert not drive.driver.on_state(drive.state(HOME, drive.now + ROS_TIME), drive.now)  # the same stamp again
    assert drive.driver._state is not None
    assert drive.driver._state.joint_positions[0] > 0.33
    assert drive.driver.unbelieved == ""


def test_after_the_clock_was_set_back_states_count_again(drive: Drive) -> None:
    """Hazard: the clock goes back by an hour, and for an hour no state is new."""
    drive.states = False
    drive.go(0.3)
    assert drive.driver.on_state(drive.state(HOME, drive.now - 3600 + ROS_TIME), drive.now)


def test_a_displaced_arm_gets_nothing_until_somebody_has_looked(drive: Drive) -> None:
    """Hazard: the arm is not where it was (moved while nobody looked, a slipped encoder), and a motion goes back."""
    drive.move()
    drive.go(1.0)
    count = len(drive.sent)
    drive.follows, drive.q = False, drive.q + np.array([0, 0.6, 0, 0, 0, 0])
    drive.go(0.6)
    told = drive.driver.told(drive.now)
    assert told is not None
    assert told.displaced > ROS_TIME
    assert drive.driver.outcome is Outcome.HELD
    drive.course = None
    assert "found elsewhere at once" in drive.refused()
    assert drive.press() is None
    assert drive.press(False) is None
    assert drive.hold() is None
    drive.stopped = False  # a filter that was never stopped has not been reset
    drive.go(0.2)
    assert "found elsewhere at once" in drive.refused()
    for drive.stopped in (True, False):
        assert drive.go(0.2) == []
    assert len(drive.sent) == count
    told = drive.driver.told(drive.now)
    assert told is not None
    assert told.displaced == 0.0
    np.testing.assert_array_equal(told.reference, drive.q)
    drive.sent.clear()
    drive.course = None
    assert drive.move() is not None


@pytest.mark.parametrize("when", ["stopped", "held", "arrived"])
def test_motion_that_nobody_commanded_is_reported(drive: Drive, when: str) -> None:
    """Hazard: another node's trajectory moved a stopped arm by 0.28 m in silence."""
    if when == "stopped":
        drive.stopped = True
        drive.go(0.1)
    else:
        drive.move()
        drive.go(0.5)
        if when == "held":
            drive.hold()
    drive.go(1.0)
    assert drive.driver.unexpected == ""
    drive.rogue = np.array([0, 0.1, 0, 0, 0, 0])
    drive.go(0.8)
    assert "rad though nobody commanded it" in drive.driver.unexpected
    assert drive.robot.interface.arm_topic in drive.driver.unexpected


def test_a_stop_stops_what_somebody_else_moves(drive: Drive) -> None:
    """Hazard: the stop holds the arm where it was told to be, a long way back, against another's motion."""
    drive.move()
    drive.go(1.0)
    drive.rogue = np.array([0, 0.5, 0, 0, 0, 0])
    drive.go(0.2)
    stop = drive.press()
    assert stop is not None
    np.testing.assert_allclose(stop.positions[0], drive.q)
    assert 0.0 < stop.last[1] - drive.q[1] <= 0.03
    assert not stop.velocities[-1].any()


def test_commanded_motion_is_not_reported(drive: Drive) -> None:
    """Hazard: a report that comes with every motion, which nobody reads any more."""
    for _ in range(5):
        drive.move()
        drive.go(0.2)
    drive.go(2.0)
    drive.hold()
    drive.go(2.0)
    assert drive.driver.unexpected == ""


def test_a_driver_that_ends_holds(drive: Drive) -> None:
    """Hazard: Ctrl-C in mid-motion, and the arm finishes it with nobody in charge."""
    moving(drive)
    assert_braked(drive, drive.keep(drive.driver.end(drive.now)))
    assert Drive().driver.end(50.0) is None
