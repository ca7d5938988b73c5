"""The fields of ROS messages as the package's values. By attribute only: rclpy's messages and those of a bag alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from openvla_ros import images
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Action, ArmState, Array, Command, DriverState, Outcome, Pose, RuleReport, StampedAction


def seconds(stamp: Any) -> float:
    """Seconds of a Time or Duration message. Differences keep better than a microsecond."""
    return float(stamp.sec) + stamp.nanosec * 1e-9


def vector(v: Any) -> Array:
    """(3,) of a Vector3 or Point."""
    return np.array([v.x, v.y, v.z])


def pose(message: Any) -> Pose:
    q = message.orientation
    return Pose(vector(message.position), np.array([q.x, q.y, q.z, q.w]))


def action(message: Any) -> Action:
    """Of a DeltaAction."""
    return Action(vector(message.translation), vector(message.rotation), float(message.gripper))


def stamped_action(message: Any) -> StampedAction:
    return StampedAction(
        action=action(message),
        observation_stamp=seconds(message.header.stamp),
        stamp=seconds(message.inference_ended),
        duration=seconds(message.duration),
        sequence=int(message.sequence),
        episode_id=message.episode_id,
        control_since=seconds(message.control_since) if hasattr(message, "control_since") else -np.inf,
    )


def command(message: Any) -> Command:
    return Command(
        target=pose(message.target),
        gripper=float(message.gripper),
        duration=seconds(message.duration),
        sequence=int(message.sequence),
        action_sequence=int(message.action_sequence),
        episode_id=message.episode_id,
        hold=message.kind != type(message).MOVE,
        path=trajectory(message.path) if hasattr(message, "path") and message.path.points else None,
        continues=int(getattr(message, "continues", 0)),  # neither is in an older recording
    )


def trajectory(message: Any) -> Trajectory:
    """Of a JointTrajectory, on the clock of its stamp. Raises ValueError where it is none."""
    points, start = message.points, seconds(message.header.stamp)
    return Trajectory(
        start + np.array([seconds(p.time_from_start) for p in points]),
        np.array([p.positions for p in points], dtype=np.float64),
        np.array([p.velocities for p in points], dtype=np.float64),
    )


def arm_state(message: Any) -> ArmState:
    return ArmState(
        stamp=seconds(message.header.stamp),
        pose=pose(message.end_effector),
        linear_velocity=vector(message.twist.linear),
        angular_velocity=vector(message.twist.angular),
        joint_positions=np.array(message.joints.position),
        joint_velocities=np.array(message.joints.velocity),
        gripper=float(message.gripper),
        joint_efforts=np.array(message.joints.effort) if len(message.joints.effort) else None,
        driver=driver_state(message),
    )


def driver_state(message: Any) -> DriverState | None:
    """What the driver tells in an ArmState; None in one of an older recording, or of somebody else's."""
    reference = getattr(message, "reference", ())
    if len(reference) == 0:
        return None
    return DriverState(
        reference=np.array(reference),
        at_rest=bool(message.reference_at_rest),
        command_sequence=int(message.command_sequence),
        outcome=outcome(message.outcome),
        detail=message.detail,
        displaced=seconds(message.displaced),
        unexpected=message.unexpected_motion,
    )


def outcome(value: int) -> Outcome:
    """Of an ArmState. A number that means nothing is one that nothing follows from."""
    return Outcome(value) if value in {o.value for o in Outcome} else Outcome.NONE


def reports(message: Any) -> tuple[RuleReport, ...]:
    """The rules that fired, of a SafetyStatus."""
    return tuple(
        RuleReport(r.rule, r.detail, float(r.asked), float(r.allowed), float(r.limit)) for r in message.reports
    )


def rgb(message: Any) -> images.RGB:
    """An Image or CompressedImage as (H, W, 3) uint8 RGB. Raises images.ImageError."""
    data = memoryview(message.data)
    if not hasattr(message, "encoding"):
        return images.decode_compressed(data)
    return images.decode_raw(message.encoding, message.height, message.width, message.step, data)
