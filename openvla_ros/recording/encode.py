"""The package's values as messages for a bag, without ROS: for episodes that no graph has run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype

from openvla_ros.recording.definitions import typestore
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Action, ArmState, Array, Command, Pose, RuleReport

_NEVER = 0.0


def make(typename: str, **fields: Any) -> Any:
    """A message of ``typename`` ("std_msgs/msg/String"). Fields that are not given are zero or empty, as in rclpy."""
    store = typestore()
    values = {name: fields[name] if name in fields else _empty(kind) for name, kind in store.fielddefs[typename][1]}
    return store.types[typename](**{**fields, **values})


def _empty(kind: Any) -> Any:
    """The value that a field of a kind of rosbags' has before anybody sets it."""
    node, description = kind
    if node == Nodetype.NAME:
        return make(description)
    if node == Nodetype.BASE:
        return {"string": "", "bool": False}.get(description[0], 0)
    (element, what), length = description
    length = length if node == Nodetype.ARRAY else 0
    if element == Nodetype.BASE and what[0] != "string":
        return np.zeros(length, dtype=what[0])
    return [_empty((element, what)) for _ in range(length)]


def time(seconds: float) -> Any:
    nanoseconds = round(seconds * 1e9)
    return make("builtin_interfaces/msg/Time", sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def duration(seconds: float) -> Any:
    nanoseconds = round(seconds * 1e9)
    return make("builtin_interfaces/msg/Duration", sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def header(stamp: float, frame: str = "") -> Any:
    return make("std_msgs/msg/Header", stamp=time(stamp), frame_id=frame)


def vector(values: Array, kind: str = "Vector3") -> Any:
    x, y, z = (float(v) for v in values)
    return make(f"geometry_msgs/msg/{kind}", x=x, y=y, z=z)


def pose(value: Pose) -> Any:
    x, y, z, w = (float(v) for v in value.quaternion)
    orientation = make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)
    return make("geometry_msgs/msg/Pose", position=vector(value.position, "Point"), orientation=orientation)


def image(stamp: float, rgb: Any, frame: str = "camera") -> Any:
    """A raw Image of (H, W, 3) uint8 RGB."""
    height, width = rgb.shape[:2]
    return make(
        "sensor_msgs/msg/Image",
        header=header(stamp, frame),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=width * 3,
        data=np.ascontiguousarray(rgb).reshape(-1),
    )


def delta_action(
    action: Action,
    *,
    sequence: int,
    image_stamp: float,
    stamps: tuple[float, float, float],
    step_seconds: float,
    instruction: str,
    unnorm_key: str = "",
    base_frame: str = "base_link",
    episode_id: str = "",
    normalized: Array | None = None,
    token_ids: Array | None = None,
) -> Any:
    """stamps: image received, inference started, inference ended [s]."""
    received, started, ended = stamps
    return make(
        "openvla_ros/msg/DeltaAction",
        header=header(image_stamp, base_frame),
        episode_id=episode_id,
        sequence=sequence,
        image_received=time(received),
        inference_started=time(started),
        inference_ended=time(ended),
        duration=duration(step_seconds),
        control_since=time(_NEVER),
        instruction=instruction,
        unnorm_key=unnorm_key,
        translation=vector(action.translation),
        rotation=vector(action.rotation),
        gripper=float(action.gripper),
        normalized=np.zeros(0) if normalized is None else np.asarray(normalized, dtype=np.float64),
        token_ids=np.asarray([] if token_ids is None else token_ids, dtype=np.int32),
    )


def safe_command(
    command: Command,
    joint_names: tuple[str, ...] = (),
    *,
    stamp: float,
    received: float,
    decided: float,
    base_frame: str = "base_link",
) -> Any:
    """joint_names: of its path; stamp: of the observation behind it; received, decided: by the filter [s]."""
    kind: Any = typestore().types["openvla_ros/msg/SafeCommand"]
    return kind(
        header=header(stamp, base_frame),
        episode_id=command.episode_id,
        sequence=command.sequence,
        action_sequence=command.action_sequence,
        action_received=time(received),
        decided=time(decided),
        kind=kind.HOLD if command.hold else kind.MOVE,
        target=pose(command.target),
        gripper=float(command.gripper),
        duration=duration(command.duration),
        path=joint_trajectory(command.path, joint_names),
        continues=command.continues,
    )


def joint_trajectory(path: Trajectory | None, joint_names: tuple[str, ...]) -> Any:
    """Stamped with its start; empty for None."""
    if path is None:
        return make("trajectory_msgs/msg/JointTrajectory", header=header(0.0), joint_names=[], points=[])
    points = [
        make(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            positions=positions,
            velocities=velocities,
            accelerations=np.zeros(0),
            effort=np.zeros(0),
            time_from_start=duration(float(time_from_start)),
        )
        for time_from_start, positions, velocities in zip(
            path.times - path.start, path.positions, path.velocities, strict=True
        )
    ]
    return make(
        "trajectory_msgs/msg/JointTrajectory",
        header=header(path.start),
        joint_names=list(joint_names),
        points=points,
    )


def safety_status(
    *,
    stamp: float,
    state: int,
    verdict: int = 0,
    action_sequence: int = 0,
    command_sequence: int = 0,
    reports: tuple[RuleReport, ...] = (),
    raw: Action | None = None,
    filtered: Action | None = None,
    stop_pressed: bool = False,
    episode_id: str = "",
) -> Any:
    """state, verdict: the numbers of msg/SafetyStatus.msg."""
    return make(
        "openvla_ros/msg/SafetyStatus",
        header=header(stamp),
        episode_id=episode_id,
        state=state,
        stop_pressed=stop_pressed,
        verdict=verdict,
        action_sequence=action_sequence,
        command_sequence=command_sequence,
        reports=[
            make(
                "openvla_ros/msg/RuleReport",
                rule=r.rule,
                detail=r.detail,
                asked=float(r.asked),
                allowed=float(r.allowed),
                limit=float(r.limit),
            )
            for r in reports
        ],
        raw_action=np.full(7, math.nan) if raw is None else raw.to_array(),
        filtered_action=np.full(7, math.nan) if filtered is None else filtered.to_array(),
    )


def arm_state(
    state: ArmState,
    joint_names: tuple[str, ...],
    *,
    command: Command | None = None,
    received: float = _NEVER,
    sent: float = _NEVER,
    outcome: int = 0,
    outcome_stamp: float = _NEVER,
    base_frame: str = "base_link",
    detail: str = "",
) -> Any:
    """command: the last one that the driver got, with the stamps [s] of receiving it and of sending it on. outcome: a
    number of msg/ArmState.msg."""
    at_origin = Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
    joints = make(
        "sensor_msgs/msg/JointState",
        header=header(state.stamp),
        name=list(joint_names),
        position=np.asarray(state.joint_positions, dtype=np.float64),
        velocity=np.asarray(state.joint_velocities, dtype=np.float64),
        effort=np.zeros(0) if state.joint_efforts is None else np.asarray(state.joint_efforts, dtype=np.float64),
    )
    twist = make(
        "geometry_msgs/msg/Twist", linear=vector(state.linear_velocity), angular=vector(state.angular_velocity)
    )
    return make(
        "openvla_ros/msg/ArmState",
        header=header(state.stamp, base_frame),
        end_effector=pose(state.pose),
        twist=twist,
        joints=joints,
        gripper=float(state.gripper),
        target=pose(at_origin if command is None else command.target),
        command_sequence=0 if command is None else command.sequence,
        action_sequence=0 if command is None else command.action_sequence,
        command_received=time(received),
        command_sent=time(sent),
        episode_id="" if command is None else command.episode_id,
        outcome=outcome,
        outcome_stamp=time(outcome_stamp),
        detail=detail,
        reference=np.zeros(0) if state.driver is None else np.asarray(state.driver.reference, dtype=np.float64),
        reference_at_rest=state.driver is not None and state.driver.at_rest,
        displaced=time(_NEVER if state.driver is None else state.driver.displaced),
        unexpected_motion="" if state.driver is None else state.driver.unexpected,
    )


def string(text: str) -> Any:
    return make("std_msgs/msg/String", data=text)
