"""The MuJoCo model of a described arm: shapes from its MJCF, limits from its description."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import mujoco
import numpy as np

from openvla_ros.errors import ConfigError
from openvla_ros.robots.description import RobotDescription

# How a redundant arm's elbow moves, on the paths that ArmModel.follow finds and to the poses of Kinematics.solve alike.
POSTURE_COST = 1e-3  # of the pull towards the start pose, beside 1 of the end effector: too weak to bias that
LM_DAMPING = 1e-2  # Levenberg-Marquardt: fades with the error, so it slows nothing near the target
_PULL, _PULL_M, _PULL_RAD = 0.02, 0.01, 0.05


def posture_gain(distance: float, angle: float) -> float:
    """Share of a redundant arm's way to its start posture that it goes in a step of ``distance`` [m], ``angle`` [rad].

    A step leads from one pose of a path to the next, or from a seed to its target. 2 % in 10 mm or 0.05 rad, and never
    more: the elbow turns only while the end effector moves, and an arm that is told to stay, stays.
    """
    return _PULL * min(1.0, distance / _PULL_M + angle / _PULL_RAD)


def robot_spec(robot: RobotDescription, scene: Path | None = None) -> mujoco.MjSpec:
    """The arm's MJCF, editable, with the description's joint ranges and effort limits put in; in a scene if given.

    Raises ConfigError if a file does not parse or lacks a joint or site that the description names.
    """
    files = [robot.model] if scene is None else [scene, robot.model]
    includes = "".join(f"<include file={quoteattr(str(file.resolve()))}/>" for file in files)
    try:
        spec = mujoco.MjSpec.from_string(f"<mujoco>{includes}</mujoco>")
    except ValueError as error:
        raise ConfigError(f"robot {robot.name}: not a valid MJCF model: {error}") from error
    if spec.site(robot.end_effector_site) is None:
        raise ConfigError(f"robot {robot.name}: end_effector_site {robot.end_effector_site!r} is not in {robot.model}")
    for joint in robot.joints:
        _adapt(robot, spec, joint.name, (joint.lower, joint.upper), joint.max_effort)
    for finger in robot.gripper.fingers:
        ends = (min(finger.closed, finger.open), max(finger.closed, finger.open))
        # the commanded finger's motor pushes them all
        _adapt(robot, spec, finger.name, ends, robot.gripper.max_effort * len(robot.gripper.fingers))
    return spec


def kinematic_model(
    robot: RobotDescription, fingers: float | None = None, add: Callable[[mujoco.MjSpec], None] | None = None
) -> mujoco.MjModel:
    """The arm alone, its fingers fixed: nq == nv == n, in the description's joint order.

    fingers: the opening, 0 closed to 1 open, that they are fixed at; None: where the model draws them. ``add``: puts
    more shapes in.
    """
    spec = robot_spec(robot)
    if fingers is not None:
        for finger in robot.gripper.fingers:
            _slide(spec.joint(finger.name), finger.position(fingers))
    for element in [*spec.actuators, *spec.equalities, *spec.sensors]:
        spec.delete(element)
    for joint in list(spec.joints):
        if joint.name not in robot.joint_names:
            spec.delete(joint)
    if add is not None:
        add(spec)
    model = spec.compile()
    order = tuple(model.joint(i).name for i in range(model.njnt))
    if order != robot.joint_names:
        raise ConfigError(f"robot {robot.name}: joints are {robot.joint_names}, but {robot.model} has them as {order}")
    return model


def _slide(joint: mujoco.MjsJoint, position: float) -> None:
    """Move a sliding finger's body to a joint position [m]."""
    axis = np.empty(3)
    mujoco.mju_rotVecQuat(axis, joint.axis / np.linalg.norm(joint.axis), joint.parent.quat)
    joint.parent.pos = joint.parent.pos + position * axis


def _adapt(
    robot: RobotDescription, spec: mujoco.MjSpec, name: str, span: tuple[float, float], max_effort: float
) -> None:
    """Give a joint of the model its described name, and with its actuator its described limits."""
    model_name = name.removeprefix(robot.model_prefix)
    joint = spec.joint(model_name)
    if joint is None:
        raise ConfigError(f"robot {robot.name}: joint {model_name!r} is not in {robot.model}")
    joint.name = name
    joint.limited = mujoco.mjtLimited.mjLIMITED_TRUE
    joint.range = span
    joint.actfrclimited = mujoco.mjtLimited.mjLIMITED_TRUE
    joint.actfrcrange = (-max_effort, max_effort)
    for equality in spec.equalities:
        if equality.name1 == model_name:
            equality.name1 = name
        if equality.name2 == model_name:
            equality.name2 = name
    for actuator in spec.actuators:
        if actuator.target == model_name:
            actuator.name = actuator.target = name
            actuator.ctrllimited = mujoco.mjtLimited.mjLIMITED_TRUE
            actuator.ctrlrange = span
