"""ROS messages to the package's values and back. Field by field, nothing else."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Quaternion, Twist, Vector3
from geometry_msgs.msg import Pose as PoseMsg
from sensor_msgs.msg import CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

import openvla_ros.msg as ours
from openvla_ros import images, messages
from openvla_ros.drive.interfaces.joint_trajectory import ArmTrajectory
from openvla_ros.messages import arm_state, command, pose, seconds, stamped_action
from openvla_ros.types import Action, ArmState, Array, Command, Pose, RuleReport

__all__ = [
    "arm_state",
    "command",
    "command_msg",
    "duration_msg",
    "fill_action",
    "joint_state_msg",
    "pose",
    "pose_msg",
    "report_msg",
    "rgb",
    "seconds",
    "stamped_action",
    "time_msg",
    "trajectory_msg",
    "twist_msg",
]


def time_msg(value: float) -> Time:
    nanoseconds = round(value * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def duration_msg(value: float) -> Duration:
    nanoseconds = round(value * 1e9)
    return Duration(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def _vector3(values: Array) -> Vector3:
    x, y, z = (float(v) for v in values)
    return Vector3(x=x, y=y, z=z)


def pose_msg(value: Pose) -> PoseMsg:
    x, y, z = (float(v) for v in value.position)
    qx, qy, qz, qw = (float(v) for v in value.quaternion)
    return PoseMsg(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def twist_msg(linear: Array, angular: Array) -> Twist:
    return Twist(linear=_vector3(linear), angular=_vector3(angular))


def fill_action(message: ours.DeltaAction, action: Action) -> None:
    message.translation = _vector3(action.translation)
    message.rotation = _vector3(action.rotation)
    message.gripper = float(action.gripper)


def command_msg(value: Command, joint_names: tuple[str, ...] = ()) -> ours.SafeCommand:
    """Without header and stamps, which the caller knows. joint_names: of its path."""
    message = ours.SafeCommand(
        episode_id=value.episode_id,
        sequence=value.sequence,
        action_sequence=value.action_sequence,
        kind=ours.SafeCommand.HOLD if value.hold else ours.SafeCommand.MOVE,
        target=pose_msg(value.target),
        gripper=float(value.gripper),
        duration=duration_msg(value.duration),
        continues=value.continues,
    )
    if value.path is not None:
        path = value.path
        message.path.header.stamp = time_msg(path.start)
        message.path.joint_names = list(joint_names)
        message.path.points = [
            JointTrajectoryPoint(positions=q, velocities=qd, time_from_start=duration_msg(t))
            for t, q, qd in zip(
                (path.times - path.start).tolist(), path.positions.tolist(), path.velocities.tolist(), strict=True
            )
        ]
    return message


def joint_state_msg(names: tuple[str, ...], state: ArmState) -> JointState:
    efforts = [] if state.joint_efforts is None else state.joint_efforts.tolist()
    return JointState(
        name=list(names),
        position=state.joint_positions.tolist(),
        velocity=state.joint_velocities.tolist(),
        effort=efforts,
    )


def report_msg(report: RuleReport) -> ours.RuleReport:
    return ours.RuleReport(
        rule=report.rule,
        detail=report.detail,
        asked=float(report.asked),
        allowed=float(report.allowed),
        limit=float(report.limit),
    )


def trajectory_msg(trajectory: ArmTrajectory) -> JointTrajectory:
    """Without a header stamp: zero asks the controller to start at once."""
    message = JointTrajectory(joint_names=list(trajectory.joint_names))
    for i, t in enumerate(trajectory.times):
        point = JointTrajectoryPoint(positions=trajectory.positions[i].tolist(), time_from_start=duration_msg(float(t)))
        if trajectory.velocities is not None:
            point.velocities = trajectory.velocities[i].tolist()
        message.points.append(point)
    return message


def check(message: Image | CompressedImage) -> None:
    """Raises images.ImageError where one can tell without decoding that ``rgb`` would."""
    if isinstance(message, Image):
        if message.encoding in images.ENCODINGS:
            images.check_raw(message.encoding, message.height, message.width, message.step, len(message.data))
        else:
            _cv_bridge(message.encoding)


def rgb(message: Image | CompressedImage) -> images.RGB:
    """An image message as (H, W, 3) uint8 RGB; cv_bridge does the encodings that images.py does not know.

    Raises images.ImageError.
    """
    if isinstance(message, CompressedImage) or message.encoding in images.ENCODINGS:
        return messages.rgb(message)
    cv_bridge = _cv_bridge(message.encoding)
    try:
        return np.asarray(cv_bridge.CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8"))
    except cv_bridge.CvBridgeError as error:
        raise images.ImageError(f"image encoding '{message.encoding}' can't be turned into RGB: {error}") from None


def _cv_bridge(encoding: str) -> Any:
    """The module cv_bridge. Raises images.ImageError where it is missing."""
    try:
        return importlib.import_module("cv_bridge")
    except ImportError:
        raise images.ImageError(
            f"image encoding '{encoding}' is not one of {', '.join(images.ENCODINGS)}; "
            "for others install cv_bridge (Debian package ros-$ROS_DISTRO-cv-bridge), or set the camera to rgb8"
        ) from None
