"""The driver: a steady clock, measurements and commands are put in; what the arm's controller is told comes out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safety_scene import DOWN, arm_state

from openvla_ros.control.safety.course import Course, Step
from openvla_ros.drive.driver import LONGEST_MOTION, Driver, DriverConfig
from openvla_ros.robots.description import load_robot
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import ArmState, Array, Command, Outcome, Pose

ROS_TIME = 1.7e9  # what the states' stamps count from: another clock than the steady one
LEAD, WINDOW = 0.03, 0.1  # [s] of a path
HOME = np.array([0.3, -0.05, 0.2, 0.0, 0.0, 0.0])
STEP = (0.04, 0.0, 0.0)
FAST, HARD = 0.25, 2.5  # [m/s], [m/s^2]: the limits of the arm


class CartesianArm:
    """Its first three joints are x, y, z, the next two turn the hand, the last one does nothing: easy to follow."""

    def forward(self, q: Array) -> Pose:
        return Pose(q[:3].copy(), DOWN)

    def twist(self, q: Array, qd: Array) -> tuple[Array, Array]:
        return qd[:3], np.array([qd[3], qd[4], 0.0])


def path_of(course: Course, start: float) -> Trajectory:
    times = course.changes(start)
    rest = np.zeros((len(times), 3))
    return Trajectory(
        times,
        np.hstack([course.positions(times), rest]),
        np.hstack([course.velocities(times)[0], rest]),
    )


def straight(start: float, duration: float, begin: Array, end: Array) -> Trajectory:
    """From rest to rest, as a cubic."""
    return Trajectory(np.array([start, start + duration]), np.stack([begin, end]), np.zeros((2, 6)))


class Drive:
    """One arm and the filter's sign of life, both heard every 10 ms unless told otherwise. It does what it is told."""

    def __init__(self, **config: Any) -> None:
        self.robot = load_robot("wx250s")
        self.driver = Driver(self.robot, CartesianArm(), DriverConfig(**config))
        self.now = 50.0
        self.q, self.before = HOME.copy(), HOME.copy()
        self.states = self.filter = self.follows = True
        self.rogue: Array | None = None  # (n,) [rad/s] at which somebody else moves it
        self.stopped: bool | None = None
        self.frozen: float | None = None  # a stamp that every state carries
        self.sequence = 0
        self.sent: list[Trajectory] = []
        self.grippers: list[float | None] = []
        self.course: Course | None = None
        self.continues = 0

    def keep(self, sending: Any) -> Trajectory | None:
        if sending is None:
            return None
        self.sent.append(sending.arm)
        self.grippers.append(sending.gripper)
        return sending.arm

    @property
    def told(self) -> Array:
        """(n,) what the controller follows."""
        return self.sent[-1].at(self.now)[0] if self.sent else self.q

    def state(self, q: Array | None = None, stamp: float | None = None) -> ArmState:
        q = self.q if q is None else q
        qd = (self.q - self.before) / 0.01
        stamp = self.now + ROS_TIME if stamp is None else stamp
        linear, angular = CartesianArm().twist(q, qd)
        return replace(
            arm_state(stamp, CartesianArm().forward(q)),
            joint_positions=q.copy(),
            joint_velocities=qd,
            linear_velocity=linear,
            angular_velocity=angular,
        )

    def go(self, seconds: float) -> list[Trajectory]:
        """Time passes. Returns what the driver sent by itself."""
        count = len(self.sent)
        for _ in range(round(seconds / 0.01)):
            self.now += 0.01
            self.before = self.q
            if self.rogue is not None:
                self.q = self.q + 0.01 * self.rogue
            elif self.follows:
                self.q = self.told
            if self.states:
                self.driver.on_state(self.state(stamp=self.frozen), self.now)
            if self.filter:
                self.keep(self.driver.heard_filter(self.now, self.stopped))
            self.keep(self.driver.tick(self.now))
        return self.sent[count:]

    def made(self, step: Any = STEP, seconds: float = 0.2, **changes: Any) -> Command:
        """The command that comes next."""
        self.sequence += 1
        start = self.now + LEAD
        rests = self.course is None
        course = Course(Pose(self.told[:3].copy(), DOWN), WINDOW) if self.course is None else self.course
        course = course.then(Step(np.array(step, dtype=np.float64), np.zeros(3), start, seconds))
        command = Command(
            target=course.target(),
            gripper=1.0,
            duration=course.end - start,
            sequence=self.sequence,
            path=path_of(course, start),
            continues=0 if rests else self.continues,
        )
        self.course, self.continues = course, self.sequence
        return replace(command, **changes)

    def give(self, command: Command, age: float = 0.01) -> Trajectory | None:
        return self.keep(self.driver.on_command(command, age, self.now))

    def move(self, *args: Any, age: float = 0.01, **changes: Any) -> Trajectory | None:
        return self.give(self.made(*args, **changes), age)

    def hold(self, age: float = 0.01) -> Trajectory | None:
        self.course = None
        self.sequence += 1
        command = Command(Pose(self.q[:3], DOWN), 1.0, 0.0, self.sequence, hold=True)
        return self.give(command, age)

    def press(self, pressed: bool = True) -> Trajectory | None:
        self.course = None
        return self.keep(self.driver.press(pressed, self.now))

    def refused(self, age: float = 0.01, **changes: Any) -> str:
        """Why a command is refused, without a motion."""
        before = self.driver.told(self.now)
        told = self.move(age=age, **changes)
        assert told is None or abs(told.last - before.reference).max() < 0.02
        assert self.driver.outcome is Outcome.REFUSED
        self.course = None
        return self.driver.detail


@pytest.fixture
def drive() -> Drive:
    drive = Drive()
    drive.go(0.1)
    return drive


def moving(drive: Drive) -> Drive:
    """In the middle of a motion at full speed."""
    drive.move((0.05, 0, 0), 0.2)
    drive.go(0.2)
    drive.move((0.05, 0, 0), 0.2)
    drive.go(0.05)
    assert drive.sent[-1].at(drive.now)[1][0] == pytest.approx(FAST, rel=0.01)
    return drive


def assert_braked(drive: Drive, stop: Trajectory | None) -> None:
    """Along the path, to rest, and no harder than the arm may."""
    assert stop is not None
    times = np.arange(drive.now, stop.end + 1e-3, 1e-3)
    q, qd = stop.sampled(times)
    assert abs(q[0] - drive.q).max() < 0.005
    assert qd[0, 0] == pytest.approx(FAST, rel=0.02)
    assert not stop.velocities[-1].any()
    assert (np.diff(q[:, 0]) >= -1e-9).all()
    assert q[-1, 0] - q[0, 0] == pytest.approx(FAST**2 / HARD / 2, rel=0.1)
    assert abs(q[:, 1:] - HOME[1:]).max() < 1e-6
    assert abs(np.diff(qd[:-1, 0])).max() / 1e-3 <= 1.06 * HARD


def test_a_path_is_told_as_it_was_judged(drive: Drive) -> None:
    """Hazard: the driver plans anew, and what was judged is not what moves."""
    command = drive.made(gripper=0.3)
    told = drive.give(command)
    assert told is not None
    assert command.path is not None
    assert drive.grippers == [0.3]
    assert drive.driver.outcome is Outcome.EXECUTING
    times = np.arange(command.path.start, command.path.end, 1e-3)
    np.testing.assert_allclose(told.sampled(times)[0], command.path.sampled(times)[0], atol=1e-6)
    np.testing.assert_allclose(told.sampled(np.array([drive.now, drive.now + 0.02]))[0], [HOME, HOME], atol=1e-9)


def test_a_stream_of_paths_is_one_motion(drive: Drive) -> None:
    """Hazard: a jerk wherever one command takes over from the one before."""
    wire = []
    for _ in range(5):
        assert drive.move((0.05, 0, 0)) is not None
        for _ in range(20):
            wire += list(drive.sent[-1].sampled(drive.now + 0.001 * np.arange(1, 11))[0][:, 0])
            drive.go(0.01)
    speeds = np.diff(wire) / 1e-3
    assert speeds.max() < FAST * 1.01
    assert abs(np.diff(speeds)).max() / 1e-3 < HARD * 1.06
    assert wire[-1] == pytest.approx(0.3 + 0.25 - 0.05 * 0.4, abs=0.01)


def far(drive: Drive, q: Any, seconds: float = 5.0) -> Trajectory:
    return straight(drive.now + LEAD, seconds, HOME, np.array(q))


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ({"age": float("nan")}, "nan s old"),
        ({"age": 0.21}, "0.210 s old, allowed are 0.2 s"),
        ({"age": -0.5}, "0.500 s in the future: are the clocks"),
        ({"duration": 0.0}, "duration is 0 s"),
        ({"duration": float("nan")}, "duration is nan s"),
        ({"duration": 1e9}, f"allowed are up to {LONGEST_MOTION:g} s"),
        ({"gripper": float("nan")}, "gripper's target is nan"),
        ({"gripper": 1.5}, "0 (closed) to 1 (open)"),
        ({"path": None}, "has no path"),
        ({"path": Trajectory.at_rest(np.zeros(7), 50.2)}, "the path is of 7 joints, wx250s has 6"),
        ({"path": straight(50.13, 1.0, HOME + 0.02, HOME)}, "begins 0.020 rad from where the arm is told to be"),
        ({"path": straight(52.2, 1.0, HOME, HOME)}, "too late, or too early"),
        ({"path": Trajectory.at_rest(HOME, 50.0)}, "too late, or too early"),
        ({"path": straight(50.13, 14.0, HOME, [4.0, -0.05, 0.2, 0, 0, 0])}, "leaves the range of a joint"),
        ({"path": straight(50.13, 0.9, HOME, [0.3, -0.05, 0.2, 0, 0, 3.0])}, "turns wrist_rotate at"),
        ({"path": straight(50.13, 1.0, HOME, [0.5, -0.05, 0.2, 0, 0, 0])}, "moves the end effector at 0.30 m/s"),
        ({"path": straight(50.13, 1.0, HOME, [0.3, -0.05, 0.2, 1.0, 0, 0])}, "1.50 rad/s: more than the arm may"),
        ({"path": straight(50.13, 0.2, HOME, [0.32, -0.05, 0.2, 0, 0, 0])}, "takes 3.0 m/s^2"),
        ({"path": straight(50.13, 0.2, HOME, [0.3, -0.05, 0.2, 0.1, 0, 0])}, "15.0 rad/s^2"),
        ({"continues": 7}, "goes on from command 7, which is not under way"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(drive: Drive, command: dict[str, Any], reason: str) -> None:
    """Hazard: a late, senseless or impossible command moves the arm, or a NaN ends the driver (`age > limit` lets a
    NaN through). The driver trusts nobody, the safety filter included."""
    assert drive.now == pytest.approx(50.1)
    assert reason in drive.refused(**command)
    assert not drive.sent


def test_a_lost_command_ends_the_motion(drive: Drive) -> None:
    """Hazard: the next one's path begins where the lost one would have led: 0.50 m/s at a limit of 0.25."""
    moving(drive)
    drive.go(0.15)
    drive.made((0.05, 0, 0))  # lost
    drive.go(0.03)
    before = drive.sent[-1].at(drive.now)
    stop = drive.move((0.05, 0, 0))
    assert drive.driver.outcome is Outcome.REFUSED
    assert "which is not under way: lost, or held meanwhile" in drive.driver.detail
    assert stop is not None
    np.testing.assert_allclose(stop.at(drive.now)[0], before[0], atol=1e-9)
    assert not stop.velocities[-1].any()
    assert stop.last[0] - before[0][0] < 0.02


def test_after_a_hold_nothing_goes_on(drive: Drive) -> None:
    """Hazard: the driver held by itself, and the filter goes on from its old target."""
    moving(drive)
    drive.go(0.1)
    course, continues = drive.course, drive.continues
    drive.press()
    drive.press(False)
    drive.go(0.05)
    drive.course, drive.continues = course, continues
    drive.move((0.05, 0, 0))
    assert drive.driver.outcome is Outcome.REFUSED
    drive.go(0.5)
    drive.course = None
    assert drive.move() is not None
    assert drive.driver.outcome is Outcome.EXECUTING


def test_a_late_command_at_rest_is_carried_out_later(drive: Drive) -> None:
    """Hazard: a command that is late is caught up with; the same path, later, is what was judged."""
    command = drive.made()
    drive.go(0.1)
    told = drive.give(command, age=0.1)
    assert told is not None
    assert command.path is not None
    assert told.end - drive.now == pytest.approx(command.path.duration)
    times = np.arange(0, command.path.duration, 1e-3)
    shifted = told.sampled(drive.now + times)[0]
    np.testing.assert_allclose(shifted, command.path.sampled(command.path.start + times)[0], atol=1e-9)


@pytest.mark.parametrize("late", [0.0, 0.01, 0.03, 0.05, 0.08, 0.15])
def test_a_late_command_in_motion_is_not_caught_up_with(drive: Drive, late: float) -> None:
    """Hazard: the arm has begun to slow down when the next path comes, and is told to be further on at once."""
    drive.move((0.05, 0, 0))
    drive.go(0.2)
    command = drive.made((0.05, 0, 0))
    drive.go(late)
    told = drive.give(command, age=late)
    assert drive.driver.outcome is (Outcome.EXECUTING if late <= 0.03 else Outcome.REFUSED)
    if late == 0.15:
        assert told is None  # it is at rest already
        return
    assert told is not None
    q, qd = told.sampled(np.arange(drive.now, told.end, 1e-3))
    assert abs(q[0] - drive.q).max() < 1e-9
    assert abs(qd).max() <= 1.05 * FAST
    assert abs(np.diff(qd, axis=0)).max() / 1e-3 <= 1.06 * HARD


def test_the_same_command_twice_is_one(drive: Drive) -> None:
    """Hazard: a duplicate ends the motion, or begins it anew."""
    first = drive.made()
    drive.give(first)
    drive.go(0.1)
    assert drive.give(first, age=0.11) is None
    second = drive.made((0.005, 0, 0))
    drive.give(second)
    drive.go(0.02)
    for again, age in ((second, 0.03), (first, 0.13)):
        assert drive.give(again, age) is None
        assert drive.driver.outcome is Outcome.EXECUTING
    drive.go(0.08)
    assert drive.move() is not None
    assert drive.driver.outcome is Outcome.EXECUTING


@pytest.mark.parametrize("begins_anew", [True, False])
def test_a_command_that_was_overtaken_is_not_carried_out(drive: Drive, begins_anew: bool) -> None:
    """Hazard: MOVE and HOLD change places on their way, and the arm moves after it was told to hold."""
    if not begins_anew:
        moving(drive)
        drive.go(0.1)
    command = drive.made()
    drive.hold()
    assert drive.give(command) is None
    assert drive.driver.outcome is Outcome.HELD
    drive.go(0.5)
    assert drive.driver.command is not None
    assert drive.driver.command.hold
    assert drive.sent[-1].rests(drive.now)


def test_a_filter_that_was_started_anew_counts_from_one(drive: Drive) -> None:
    """Hazard: after a restart of the filter all its commands are taken for old ones."""
    drive.sequence = 500
    drive.move()
    drive.go(1.0)
    drive.sequence, drive.course = 0, None
    assert drive.move() is not None
    drive.go(0.2)
    assert drive.move() is not None
    assert drive.driver.outcome is Outcome.EXECUTING


def test_before_the_first_measurement_nothing_moves() -> None:
    """Hazard: a motion that starts from joint positions that nobody measured; a hold at zeros."""
    drive = Drive()
    assert drive.driver.told(drive.now) is None
    drive.driver.on_command(drive.made(), 0.01, drive.now)
    assert "is the arm's own driver running?" in drive.driver.detail
    assert drive.press() is None
    drive.press(False)
    assert drive.hold() is None
    assert drive.driver.outcome is Outcome.HELD


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
    assert drive.grippers[-1] is None
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


def slowly(told: Trajectory) -> bool:
    speeds = told.sampled(np.arange(told.start, told.end, 1e-3))[1]
    hardest = abs(np.diff(speeds[:, :3], axis=0)).max() / 1e-3
    return bool(abs(speeds).max() <= 0.31 and hardest < HARD / 2 and not told.velocities[[0, -1]].any())


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


def test_with_the_arms_own_kinematics() -> None:
    """The model that the driver uses: Cartesian limits are the end effector's, not the joints'."""
    pytest.importorskip("mink")
    from judged_arm import JudgedArm

    arm = JudgedArm()
    arm.act([0, 0.02, 0])
    command = arm.commands[-1]
    arm.run(1.0)
    assert arm.driver.outcome is Outcome.ARRIVED
    assert command.path is not None
    now, positions = arm.now + 17.3, command.path.positions
    for factor, outcome in ((1, Outcome.EXECUTING), (8, Outcome.REFUSED)):
        arm.run(1.0)
        now = arm.now + 17.3
        hurried = Trajectory(
            now + LEAD + (command.path.times - command.path.start) / factor,
            arm.controller.last + positions - positions[0],
            factor * command.path.velocities,
        )
        arm.driver.on_command(replace(command, sequence=50 + factor, continues=0, path=hurried), 0.0, now)
        assert arm.driver.outcome is outcome
    assert "m/s" in arm.driver.detail
