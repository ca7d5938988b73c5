"""The driver and commands: a steady clock and measurements are put in; what the arm's controller is told comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drive_scene import FAST, HARD, HOME, LEAD, Drive, moving, straight

from openvla_ros.drive.driver import LONGEST_MOTION
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Outcome


@pytest.fixture
def drive() -> Drive:
    drive = Drive()
    drive.go(0.1)
    return drive


def test_a_path_is_told_as_it_was_judged(drive: Drive) -> None:
    """Hazard: the driver plans anew, and what was judged is not what moves."""
    command = drive.made(gripper=0.3)
    told = drive.give(command)
    assert told is not None
    assert command.path is not None
    motion = drive.driver.gripper.tick(drive.now)
    assert motion is not None
    assert motion.opening == 0.3
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
