"""The values of the JointTrajectory command interface."""

from __future__ import annotations

import numpy as np
import pytest

from openvla_ros.drive.interfaces import load_interface
from openvla_ros.drive.interfaces.joint_trajectory import ArmTrajectory, arm_trajectory, gripper_trajectory
from openvla_ros.errors import ConfigError
from openvla_ros.robots.description import load_robot
from openvla_ros.trajectory import Trajectory

ROBOT = load_robot("wx250s")


def test_arm_trajectory_ends_at_the_duration_at_rest():
    """Hazard: the controller's own state at the first moment is overwritten, or a trajectory that ends in motion."""
    told = Trajectory(100 + 0.04 * np.arange(6), np.arange(36.0).reshape(6, 6), np.ones((6, 6)))
    trajectory = arm_trajectory(ROBOT, told)
    np.testing.assert_allclose(trajectory.times, [0.04, 0.08, 0.12, 0.16, 0.2])
    np.testing.assert_array_equal(trajectory.positions, told.positions[1:])
    assert trajectory.velocities is not None
    assert not trajectory.velocities[-1].any()
    assert trajectory.joint_names == ROBOT.joint_names


def test_gripper_trajectory_names_only_the_commanded_finger():
    """The real gripper controller knows left_finger alone and rejects a second joint."""
    trajectory = gripper_trajectory(ROBOT, 0.5, 0.2)
    assert trajectory.joint_names == ("left_finger",)
    np.testing.assert_allclose(trajectory.positions, [[0.026]])


@pytest.mark.parametrize(
    ("times", "positions", "velocities"),
    [
        ([0.1, 0.1], np.zeros((2, 2)), None),
        ([0.0, 0.1], np.zeros((2, 2)), None),
        ([], np.zeros((0, 2)), None),
        ([0.1], np.zeros((1, 3)), None),
        ([0.1], np.full((1, 2), np.nan), None),
        ([np.inf], np.zeros((1, 2)), None),
        ([0.1], np.zeros((1, 2)), np.zeros((2, 2))),
        ([0.1], np.zeros((1, 2)), np.ones((1, 2))),
    ],
)
def test_what_a_controller_would_reject_is_not_built(times, positions, velocities):
    with pytest.raises(ValueError):
        ArmTrajectory(("a", "b"), np.array(times), positions, velocities)


def test_unknown_interface_lists_those_there_are():
    with pytest.raises(ConfigError, match="joint_trajectory"):
        load_interface("telepathy")


def test_an_unknown_interface_is_named_with_those_there_are():
    """A typo in a robot's file must stop the start, not leave the arm without commands."""
    with pytest.raises(ConfigError, match=r"'telepathy'; there are \['joint_trajectory'\]"):
        load_interface("telepathy")
