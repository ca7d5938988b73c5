"""The driver's motion: a steady clock and a planner are put in, what is sent to the arm's controller comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safety_scene import START, arm_state, shifted

from openvla_ros.drive.driver import LONGEST_MOTION, Driver, DriverConfig, Trajectory
from openvla_ros.errors import KinematicsError
from openvla_ros.types import Array, Command, Outcome, Pose

TARGET = shifted((0.05, 0, 0))
ROS_TIME = 1.7e9  # what the states' stamps count from: another clock than the steady one


class CartesianArm:
    """A planner whose first three joints are x, y, z: easy to follow by eye. Nothing beyond ``reach`` is reachable."""

    def __init__(self, reach: float = 1.0) -> None:
        self.reach = reach

    def path(self, q_start: Array, target: Pose, duration: float, count: int) -> Array:
        if np.linalg.norm(target.position) > self.reach:
            raise KinematicsError(f"target at {target.position.tolist()} m is not reachable")
        goal = joints(target)
        return q_start + np.arange(1, count + 1)[:, None] / count * (goal - q_start)


def joints(pose: Pose) -> Array:
    return np.concatenate([pose.position, np.zeros(3)])


class Drive:
    """One arm and the filter's sign of life, both heard every 10 ms unless told otherwise."""

    def __init__(self, **config: Any) -> None:
        self.motion = Driver(CartesianArm(), DriverConfig(**config))
        self.now = 50.0
        self.pose = START
        self.states = self.filter = True
        self.frozen: float | None = None  # a stamp that every state carries
        self.sequence = 0
        self.sent: list[Trajectory] = []

    def keep(self, trajectory: Trajectory | None) -> Trajectory | None:
        if trajectory is not None:
            self.sent.append(trajectory)
        return trajectory

    def go(self, seconds: float) -> list[Trajectory]:
        """Time passes. Returns what the watchdog sent."""
        count = len(self.sent)
        for _ in range(round(seconds / 0.01)):
            self.now += 0.01
            if self.states:
                stamp = self.now + ROS_TIME if self.frozen is None else self.frozen
                state = replace(arm_state(stamp, self.pose), joint_positions=joints(self.pose))
                self.motion.on_state(state, self.now)
            if self.filter:
                self.motion.heard_filter(self.now)
            self.keep(self.motion.tick(self.now))
        return self.sent[count:]

    def command(self, target: Pose = TARGET, age: float = 0.01, **changes: Any) -> Trajectory | None:
        self.sequence += 1
        made = replace(Command(target, 1.0, 0.2, self.sequence), **changes)
        return self.keep(self.motion.on_command(made, age, self.now))

    def press(self, pressed: bool = True) -> Trajectory | None:
        return self.keep(self.motion.press(pressed, self.now))

    def refused(self, **command: Any) -> str:
        """Why a command is refused, without a trajectory."""
        assert self.command(**command) is None
        assert self.motion.outcome is Outcome.REFUSED
        return self.motion.detail


@pytest.fixture
def drive() -> Drive:
    drive = Drive()
    drive.go(0.1)
    return drive


def test_a_command_becomes_waypoints_at_even_times(drive: Drive) -> None:
    trajectory = drive.command(gripper=0.3)
    assert trajectory is not None
    assert trajectory.duration == 0.2
    assert trajectory.gripper == 0.3
    np.testing.assert_allclose(trajectory.positions[:, 0], 0.3 + 0.05 * np.arange(1, 6) / 5)
    assert drive.motion.outcome is Outcome.EXECUTING


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ({"age": float("nan")}, "nan s old"),
        ({"age": 0.21}, "0.210 s old, allowed are 0.2 s"),
        ({"age": -0.5}, "0.500 s in the future: are the clocks"),
        ({"target": shifted((2.0, 0, 0))}, "not reachable"),
        ({"duration": 0.0}, "duration is 0 s"),
        ({"duration": float("nan")}, "duration is nan s"),
        ({"duration": 1e9}, f"allowed are up to {LONGEST_MOTION:g} s"),
        ({"gripper": float("nan")}, "gripper's target is nan"),
        ({"gripper": 1.5}, "0 (closed) to 1 (open)"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(drive: Drive, command: dict[str, Any], reason: str) -> None:
    """Hazard: a late, senseless or unreachable command moves the arm, or a NaN ends the driver (`age > limit` lets a
    NaN through). The driver trusts nobody, the safety filter included."""
    assert reason in drive.refused(**command)
    assert not drive.sent


def test_before_the_first_measurement_nothing_moves() -> None:
    """Hazard: a motion that starts from joint positions that nobody measured; a hold at zeros."""
    drive = Drive()
    assert "is the arm's own driver running?" in drive.refused()
    assert drive.press() is None
    assert drive.command(hold=True) is None
    assert drive.motion.outcome is Outcome.HELD


def test_joint_states_with_the_same_stamp_are_not_fresh(drive: Drive) -> None:
    """Hazard: a bridge repeats its last joint state while the arm's bus is dead; every message looks like life."""
    drive.command()
    drive.frozen = drive.now + ROS_TIME
    (hold,) = drive.go(0.5)
    assert hold.positions.shape == (1, 6)
    assert "no joint states" in drive.motion.detail
    assert "no joint states" in drive.refused()


@pytest.mark.parametrize(("silent", "said"), [("filter", "safety filter was silent"), ("states", "no joint states")])
def test_silence_in_a_motion_gives_exactly_one_hold(drive: Drive, silent: str, said: str) -> None:
    """Hazard: the filter or the joint states die in mid-motion and the arm goes on; or holds rain down at 50 Hz."""
    drive.command(duration=2.0)
    drive.go(0.1)
    setattr(drive, silent, False)
    assert drive.go(0.19) == []
    (hold,) = drive.go(1.0)
    assert hold.gripper is None
    assert drive.motion.outcome is Outcome.HELD
    assert said in drive.motion.detail


def test_silence_is_told_also_while_nothing_moves(drive: Drive) -> None:
    """Hazard: a diagnostic that says "arrived" of an arm whose driver, or whose filter, died since."""
    drive.go(0.1)
    assert drive.motion.missing(drive.now) == ""
    drive.filter = False
    drive.go(0.3)
    assert "safety filter was silent" in drive.motion.missing(drive.now)
    drive.filter, drive.states = True, False
    drive.go(0.3)
    assert "no joint states" in drive.motion.missing(drive.now)


def test_a_refused_command_leaves_the_watchdog_on(drive: Drive) -> None:
    """Hazard: a command is refused while the one before is moving the arm, then the filter dies: nobody holds."""
    drive.command(duration=2.0)
    drive.refused(age=1.0)
    drive.filter = False
    assert len(drive.go(0.5)) == 1
    assert drive.motion.outcome is Outcome.HELD


def test_a_refused_command_does_not_arrive(drive: Drive) -> None:
    """Hazard: blocking control takes the arrival of the motion before for that of the command that was refused."""
    drive.command()
    drive.refused(age=1.0)
    drive.pose = TARGET
    drive.go(1.0)
    assert drive.motion.outcome is Outcome.REFUSED


def test_without_joint_states_the_hold_is_where_the_controller_is(drive: Drive) -> None:
    """Hazard: the last measurement lies behind a moving arm; going back there is a jerk."""
    drive.command(target=shifted((0.5, 0, 0)), duration=1.0)
    drive.states = False
    (hold,) = drive.go(0.3)
    elapsed = drive.now - 50.1
    assert 0.2 <= elapsed <= 0.31
    assert hold.positions[0, 0] == pytest.approx(0.3 + 0.5 * 0.21, abs=0.011)


def test_without_joint_states_an_arm_at_rest_is_left_alone(drive: Drive) -> None:
    """Hazard: the e-stop is pressed long after the arm's driver died; a hold at an old measurement moves it."""
    drive.states = False
    drive.go(1.0)
    assert drive.press() is None
    assert drive.motion.outcome is Outcome.HELD


def test_pressed_e_stop_holds_at_once_and_refuses(drive: Drive) -> None:
    """Hazard: the e-stop reaches the driver and the arm still finishes its motion, or starts the next."""
    drive.command(duration=2.0)
    drive.pose = shifted((0.02, 0, 0))
    drive.go(0.02)
    hold = drive.press()
    assert hold is not None
    np.testing.assert_allclose(hold.positions, [joints(drive.pose)])
    assert drive.motion.outcome is Outcome.HELD
    assert "e-stop" in drive.refused()
    assert drive.press(False) is None
    assert drive.command() is not None


def test_a_repeated_e_stop_does_not_let_the_arm_sag(drive: Drive) -> None:
    """Hazard: a button that publishes its level at 10 Hz. Each hold at what is measured would lose the controller's
    lag once more, and the arm creeps down; refused commands in between change nothing."""
    first = drive.press()
    for _ in range(20):
        drive.pose = Pose(drive.sent[-1].positions[0, :3] - [0, 0, 0.01], START.quaternion)  # droops below what is told
        drive.refused()
        drive.go(0.1)
        drive.press()
    assert first is not None
    np.testing.assert_array_equal(drive.sent[-1].positions, first.positions)


def test_a_second_stop_is_where_the_arm_is_then(drive: Drive) -> None:
    """Hazard: what keeps a repeated stop in place keeps a new one from stopping where the arm is."""
    drive.press()
    drive.press(False)
    drive.command(duration=0.2)
    drive.go(0.1)
    hold = drive.press()
    assert hold is not None
    np.testing.assert_array_equal(hold.positions, [joints(drive.pose)])


def test_motions_start_from_what_the_controller_was_told(drive: Drive) -> None:
    """Hazard: each motion starts from the measured joints, which lag: the arm sags by the lag in every step."""
    drive.command(duration=1.0)
    drive.go(0.4)  # the arm has not moved at all
    trajectory = drive.command(target=shifted((0.02, 0, 0)), duration=0.04)
    assert trajectory is not None
    np.testing.assert_allclose(trajectory.positions[:, 0], [0.32], atol=1e-12)
    drive.go(0.3)
    drive.pose = shifted((0.02, 0, -0.03))
    drive.go(0.02)
    trajectory = drive.command(target=shifted((0.02, 0.01, 0)), duration=0.2)
    assert trajectory is not None
    np.testing.assert_allclose(trajectory.positions[:, 2], 0.2, atol=1e-12)  # height: told, not measured


def test_motions_start_where_the_arm_is_when_it_is_elsewhere(drive: Drive) -> None:
    """Hazard: the arm was moved by hand; a motion from what the controller was told last would be a jump."""
    drive.command()
    drive.go(0.3)
    drive.pose = shifted((0.0, 0.3, 0))
    drive.go(0.02)
    trajectory = drive.command(target=shifted((0.0, 0.3, 0)))
    assert trajectory is not None
    np.testing.assert_allclose(trajectory.positions, [joints(drive.pose)] * 5, atol=1e-12)


def test_arrival_is_measured(drive: Drive) -> None:
    """Hazard: 'blocking' that only waits for the motion's duration."""
    drive.command()
    drive.go(1.0)
    assert drive.motion.outcome is Outcome.EXECUTING
    drive.pose = TARGET
    drive.go(0.2)
    assert drive.motion.outcome is Outcome.ARRIVED
    assert drive.now - 0.2 < drive.motion.outcome_stamp - ROS_TIME < drive.now + 0.01


def test_a_blocked_arm_times_out_and_says_so(drive: Drive) -> None:
    drive.command()
    drive.go(2.3)
    assert drive.motion.outcome is Outcome.TIMED_OUT
    assert "not at the target 2 s after" in drive.motion.detail


def test_time_runs_out_without_joint_states_too() -> None:
    """Hazard: a blocking loop that waits for ever because the outcome is only looked at when joint states come."""
    drive = Drive(arrival={"timeout": 0.1}, state_timeout=1.0)
    drive.go(0.1)
    drive.command()
    drive.states = False
    assert drive.go(0.5) == []
    assert drive.motion.outcome is Outcome.TIMED_OUT


def test_a_hold_of_the_filter_is_obeyed_however_late(drive: Drive) -> None:
    drive.command(duration=2.0)
    drive.go(0.1)
    hold = drive.command(hold=True, age=float("nan"))
    assert hold is not None
    assert drive.motion.outcome is Outcome.HELD
    assert drive.go(1.0) == []


def test_with_the_arms_own_kinematics() -> None:
    """The planner that the driver uses: the end effector goes straight, and an unreachable target moves nothing."""
    pytest.importorskip("mink")
    from openvla_ros.robots.description import load_robot
    from openvla_ros.robots.kinematics import Kinematics

    kinematics = Kinematics(load_robot("wx250s"))
    q = kinematics.description.pose("start")
    start = kinematics.forward(q)
    motion = Driver(kinematics, DriverConfig())
    motion.on_state(replace(arm_state(ROS_TIME, start), joint_positions=q), 1.0)
    target = start.moved(np.array([0.02, 0.01, -0.01]), np.array([0, 0, 0.1]))
    trajectory = motion.on_command(Command(target, 1.0, 0.2, 1), 0.0, 1.0)
    assert trajectory is not None
    reached = [kinematics.forward(row).position - start.position for row in trajectory.positions]
    np.testing.assert_allclose(reached, np.outer(np.arange(1, 6) / 5, [0.02, 0.01, -0.01]), atol=2e-4)
    far = start.moved(np.array([0.0, 0.0, 2.0]), np.zeros(3))
    assert motion.on_command(Command(far, 1.0, 0.2, 2), 0.0, 1.01) is None
    assert motion.outcome is Outcome.REFUSED
    assert "reach" in motion.detail or "rad/s" in motion.detail
