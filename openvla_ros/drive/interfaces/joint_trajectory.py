"""The JointTrajectory command interface: what ros2_control's JointTrajectoryController accepts, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openvla_ros.robots.description import RobotDescription
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Array


@dataclass(frozen=True, slots=True)
class ArmTrajectory:
    """Joint positions to pass through, for the arm's controller or the gripper's.

    times: (k,) [s] from the start, positive and increasing; positions: (k, m) [rad or m], in the order of joint_names;
    velocities: (k, m) or None. Without velocities the controller interpolates linearly; with them by cubics, and the
    last row must then be zero (the controller's default refuses a trajectory that ends in motion).
    Raises ValueError on shapes that do not agree, times that do not increase, or numbers that are not finite.
    """

    joint_names: tuple[str, ...]
    times: Array
    positions: Array
    velocities: Array | None = None

    def __post_init__(self) -> None:
        shape = (len(self.times), len(self.joint_names))
        _check("times", self.times, shape[:1])
        _check("positions", self.positions, shape)
        if self.velocities is not None:
            _check("velocities", self.velocities, shape)
        if shape[0] == 0 or self.times[0] <= 0 or (np.diff(self.times) <= 0).any():
            raise ValueError(f"times must be positive and increasing, not {self.times}")
        if self.velocities is not None and np.any(self.velocities[-1]):
            raise ValueError(f"the last velocities must be zero, not {self.velocities[-1]}")


def _check(name: str, values: Array, shape: tuple[int, ...]) -> None:
    if np.shape(values) != shape or not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite and of shape {shape}, not {values}")


def arm_trajectory(robot: RobotDescription, told: Trajectory) -> ArmTrajectory:
    """What the arm is told from the first moment of ``told`` on. The controller has its own state there: no point."""
    times = told.times[1:] - told.start
    velocities = told.velocities[1:].copy()
    velocities[-1] = 0.0
    return ArmTrajectory(robot.joint_names, times, told.positions[1:], velocities)


def gripper_trajectory(robot: RobotDescription, opening: float, duration: float) -> ArmTrajectory:
    """The gripper moves to an opening in 0 (closed) .. 1 (open) within duration [s]. Raises ValueError outside 0..1."""
    positions = robot.gripper.command(opening)[None]
    return ArmTrajectory(robot.gripper.command_joints, np.array([duration]), positions)
