"""What a configuration must not say about the arm it is for. Each problem names the parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from openvla_ros import geometry
from openvla_ros.control.safety.arm import AXES, ArmModel
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.errors import ConfigError
from openvla_ros.types import Array, Pose


def check_robot(
    config: SafetyConfig,
    *,
    arm_model: ArmModel | None = None,
    start_joints: Array | None = None,
    speed_m_s: float | None = None,
    speed_rad_s: float | None = None,
    max_efforts_n_m: tuple[float, ...] | None = None,
) -> None:
    """ConfigError where ``config`` contradicts the arm: its start pose (n,) [rad], its reach, its own limits."""
    problems = list(above_the_arms_own(config, speed_m_s, speed_rad_s, max_efforts_n_m))
    if arm_model is not None:
        problems += beyond_the_arm(config, arm_model)
        if start_joints is not None:
            problems += bad_start(config, arm_model, start_joints)
            problems += touching_start(config, config.place(arm_model), start_joints)
    if problems:
        raise ConfigError("; ".join(problems))


def above_the_arms_own(
    config: SafetyConfig,
    speed_m_s: float | None,
    speed_rad_s: float | None,
    max_efforts_n_m: tuple[float, ...] | None,
) -> Iterator[str]:
    """Limits that would never be the first to act, or are for another number of joints."""
    motion, efforts = config.motion, config.contact.max_efforts_n_m
    if speed_m_s is not None and motion.max_speed_m_s > speed_m_s:
        yield f"motion.max_speed_m_s: {motion.max_speed_m_s} is above the arm's own limit of {speed_m_s} m/s"
    if speed_rad_s is not None and motion.max_speed_rad_s > speed_rad_s:
        yield f"motion.max_speed_rad_s: {motion.max_speed_rad_s} is above the arm's own limit of {speed_rad_s} rad/s"
    if efforts is None or max_efforts_n_m is None:
        return
    if len(efforts) != len(max_efforts_n_m):
        yield f"contact.max_efforts_n_m: {len(efforts)} limits for the arm's {len(max_efforts_n_m)} joints"
    elif any(effort > most for effort, most in zip(efforts, max_efforts_n_m, strict=True)):
        yield f"contact.max_efforts_n_m: {efforts} is above the arm's own limits of {max_efforts_n_m} N m"


def beyond_the_arm(config: SafetyConfig, model: ArmModel) -> Iterator[str]:
    """A workspace that no arm of this reach fills, margins that leave a joint no room."""
    box, reach, margin = config.workspace, model.reach, config.joints.margin_rad
    for name, corner in (("lower_m", box.lower_m), ("upper_m", box.upper_m)):
        far = [axis for axis, value in zip(AXES, corner, strict=True) if abs(value) > reach]
        if far:
            yield f"workspace.{name}: {', '.join(far)} of {corner} m lies beyond the arm's reach of {reach:.2f} m"
    nearest = math.hypot(*(max(low, -high, 0.0) for low, high in zip(box.lower_m, box.upper_m, strict=True)))
    if nearest > reach:
        yield f"workspace.lower_m: the whole box lies beyond the arm's reach of {reach:.2f} m"
    narrow = [n for n, span in zip(model.joint_names, model.upper - model.lower, strict=True) if span <= 4 * margin]
    if narrow:
        yield f"joints.margin_rad: {margin} leaves {', '.join(narrow)} no room to move"


def bad_start(config: SafetyConfig, model: ArmModel, start_joints: Array) -> Iterator[str]:
    """Why the arm could not begin its work at its start pose (n,) [rad]."""
    yield from _start_outside(config, model.forward(start_joints))
    margin = config.joints.margin_rad
    for name, low, q, high in zip(model.joint_names, model.lower, start_joints, model.upper, strict=True):
        if not low + margin <= q <= high - margin:
            yield f"joints.margin_rad: {name} starts at {q:.3f} rad, within {margin} of {low:.3f} to {high:.3f} rad"
    value, stop = model.smallest_singular_value(start_joints), config.singularity.stop
    if value < stop:
        yield f"singularity.stop: the start pose is singular: its smallest singular value is {value:.3f}, below {stop}"
    stop = config.collision.self_stop_m
    distances = model.distances(start_joints, 2 * stop)
    if distances.size and distances.min() < stop:
        names = model.pair_names[int(distances.argmin())]
        yield f"collision.self_stop_m: {names} start {distances.min():.3f} m apart, below {stop} m"


def touching_start(config: SafetyConfig, model: ArmModel, start_joints: Array) -> Iterator[str]:
    """What of the arm, and of an object in its hand, is too near to its surroundings at the start pose (n,) [rad]."""
    lower, upper = model.extents(start_joints)
    table, stop = config.collision.table_height_m, config.collision.table_stop_m
    height, name = _least(lower[:, 2] - table, model.link_names)
    if height < stop:
        yield f"collision.table_height_m: {name} starts {height:.3f} m above the table at {table} m, below {stop} m"
    stop = config.collision.obstacle_stop_m
    distances = model.obstacle_distances(start_joints, 2 * stop)
    for i, box in enumerate(config.keep_out):
        distance, name = _least(distances[:, i], model.link_names)
        if distance < stop:
            yield f"keep_out '{box.name}': {name} starts {distance:.3f} m from it, below {stop} m"
    for bound, corner, gaps in (
        ("lower_m", config.whole_arm.lower_m, lower - (config.whole_arm.lower_m or 0.0)),
        ("upper_m", config.whole_arm.upper_m, (config.whole_arm.upper_m or 0.0) - upper),
    ):
        for i, axis in enumerate(AXES if corner else ""):
            distance, name = _least(gaps[:, i], model.link_names)
            if distance < stop:
                yield f"whole_arm.{bound}: {name} starts {distance:.3f} m from the wall in {axis}, below {stop} m"


def _least(values: Array, names: tuple[str, ...]) -> tuple[float, str]:
    """The least of the values (m,), infinite where there are none, and whose it is."""
    return (float(values.min()), names[int(values.argmin())]) if values.size else (math.inf, "")


def _start_outside(config: SafetyConfig, start: Pose) -> Iterator[str]:
    box = config.workspace
    position = [round(value, 6) for value in start.position.tolist()]
    turn = geometry.to_rotvec(geometry.between(np.array(box.reference_quaternion), start.quaternion))
    for i, axis in enumerate(AXES):
        low, high = box.lower_m[i], box.upper_m[i]
        if not low <= position[i] <= high:
            yield f"workspace.lower_m/upper_m: the start pose's {axis} {position[i]:.3f} is outside {low} to {high} m"
        low, high = box.rotation_lower_rad[i], box.rotation_upper_rad[i]
        if not low <= turn[i] <= high:
            yield (
                f"workspace.rotation_lower_rad/rotation_upper_rad: the start pose is turned {turn[i]:.2f} rad about "
                f"{axis} from reference_quaternion, outside {low} to {high} rad"
            )
    for keep_out in config.keep_out:
        if all(keep_out.lower_m[i] <= position[i] <= keep_out.upper_m[i] for i in range(3)):
            yield f"keep_out '{keep_out.name}': the start position {position} m lies inside it"
