"""The few values that every part of the package speaks.

Units are SI, angles are radians, times are seconds. Every pose, twist and delta is expressed in the robot's
base frame (x forward, y left, z up). Quaternions are (x, y, z, w), as in geometry_msgs. Gripper is 0 closed to 1 open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    from openvla_ros.trajectory import Trajectory

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pose:
    """A pose of the end effector in the base frame.

    position: (3,) [m]; quaternion: (4,) unit, (x, y, z, w).
    """

    position: Array
    quaternion: Array

    @property
    def rotation(self) -> Rotation:
        return Rotation.from_quat(self.quaternion)

    @classmethod
    def from_rotation(cls, position: Array, rotation: Rotation) -> Pose:
        return cls(np.asarray(position, dtype=np.float64), rotation.as_quat())

    def moved(self, translation: Array, rotvec: Array) -> Pose:
        """This pose after a motion in base axes: translation (3,) [m] is added, rotvec (3,) [rad] premultiplied."""
        return Pose.from_rotation(self.position + translation, Rotation.from_rotvec(rotvec) * self.rotation)

    def motion_to(self, other: Pose) -> tuple[Array, Array]:
        """(translation (3,) [m], rotation vector (3,) [rad]) in base axes, so that ``self.moved(*m) == other``."""
        return other.position - self.position, (other.rotation * self.rotation.inv()).as_rotvec()


def rpy_to_rotvec(rpy: Array) -> Array:
    """Rotation vector (3,) of roll, pitch, yaw (3,) [rad] about fixed base axes: R = Rz(yaw) Ry(pitch) Rx(roll).

    The convention of Bridge V2 and so of OpenVLA's bridge_orig actions.
    """
    return Rotation.from_euler("xyz", rpy).as_rotvec()


@dataclass(frozen=True, slots=True)
class Action:
    """One OpenVLA action for one control step, after all dataset conventions have been resolved.

    translation: (3,) [m] and rotation: (3,) roll, pitch, yaw [rad], a delta in the base frame;
    gripper: absolute target, 0 closed to 1 open.
    """

    translation: Array
    rotation: Array
    gripper: float

    def to_array(self) -> Array:
        """(7,) as x, y, z, roll, pitch, yaw, gripper."""
        return np.concatenate([self.translation, self.rotation, [self.gripper]])

    @classmethod
    def from_array(cls, values: Array) -> Action:
        values = np.asarray(values, dtype=np.float64)
        return cls(values[:3], values[3:6], float(values[6]))


@dataclass(frozen=True, slots=True)
class StampedAction:
    """An action with what is needed to judge and trace it. Stamps are seconds of the ROS clock."""

    action: Action
    observation_stamp: float  # when the camera took the image
    stamp: float  # when the policy finished the action
    duration: float  # the control step that it is meant for [s]
    sequence: int
    episode_id: str = ""
    control_since: float = -math.inf  # the deliberate act behind it: an activation, another instruction


class Outcome(Enum):
    """What became of the last command. Numbers as in msg/ArmState.msg."""

    NONE = 0
    EXECUTING = 1
    ARRIVED = 2
    TIMED_OUT = 3
    REFUSED = 4
    HELD = 5


@dataclass(frozen=True, slots=True)
class ArmState:
    """What the arm measures.

    joint_positions, joint_velocities: (n,) [rad, rad/s], in the robot description's order; linear_velocity (3,) [m/s]
    and angular_velocity (3,) [rad/s] of the end effector in the base frame; gripper 0..1.
    """

    stamp: float
    pose: Pose
    linear_velocity: Array
    angular_velocity: Array
    joint_positions: Array
    joint_velocities: Array
    gripper: float
    joint_efforts: Array | None = None
    wrench: Array | None = None  # (6,) external force [N], torque [N m] at the end effector, if reported
    driver: DriverState | None = None


@dataclass(frozen=True, slots=True)
class DriverState:
    """What the arm driver tells beside what it measures. Stamps are seconds of the ROS clock, 0: never.

    reference: (n,) [rad] what the arm's controller is told now; at_rest: and whether it stays there.
    """

    reference: Array
    at_rest: bool
    command_sequence: int = 0  # the last command that was received
    outcome: Outcome = Outcome.NONE  # of that command
    detail: str = ""
    displaced: float = 0.0  # when the joints were found elsewhere at once: moved while nobody looked, or misread
    unexpected: str = ""  # motion that nobody commanded


@dataclass(frozen=True, slots=True)
class Command:
    """What the arm driver is asked to do: follow a path to an absolute target, or stop and hold.

    ``path``: what was judged, on the ROS clock [s]; None for a HOLD, and where the filter knows no arm. It goes on from
    that of the command ``continues``; 0: it starts where the driver told that the arm's reference rests.
    ``duration`` [s]: of the path.
    """

    target: Pose
    gripper: float
    duration: float
    sequence: int
    action_sequence: int = 0
    episode_id: str = ""
    hold: bool = False  # stop the motion now; ``target`` is then informative
    path: Trajectory | None = None
    continues: int = 0


@dataclass(frozen=True, slots=True)
class RuleReport:
    """One safety rule that fired: what was asked, what was allowed and the limit, in the unit of the rule."""

    rule: str
    detail: str
    asked: float = field(default=float("nan"))
    allowed: float = field(default=float("nan"))
    limit: float = field(default=float("nan"))
