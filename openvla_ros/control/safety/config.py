"""Parameters of the safety filter: every one with its unit, its range and its reason.

Defaults are those of the Bridge V2 / WidowX 250 S evaluation of OpenVLA: 0.05 m and 0.25 rad a step at 5 Hz, x 0.10 to
0.45, y -0.20 to 0.25, z -0.01 to 0.30 m, yaw +-1.57 rad. What Bridge does not define (speed, tilt, ages, ...) is chosen
so that an action within Bridge's own limits, on time, passes unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from openvla_ros.control.safety.arm import AXES, ArmModel
from openvla_ros.errors import ConfigError

Number = Annotated[float, Strict()]  # a YAML `yes` or "0.05" is a mistake, not 1.0
Vector = tuple[Number, Number, Number]


def number(default: Any, unit: str, description: str, *, live: bool = True, **bounds: Any) -> Any:
    """A documented field. ``live``: it may change while the arm is moving."""
    return Field(default, description=description, json_schema_extra={"unit": unit, "live": live}, **bounds)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Freshness(Section):
    """How old what the filter acts on may be."""

    action_max_age_s: Number = number(0.25, "s", "age of an action since the policy finished it", gt=0, le=5)
    observation_max_age_s: Number = number(
        1.0, "s", "age of the image behind an action; more than the slowest inference, or nothing passes", gt=0, le=60
    )
    arm_state_max_age_s: Number = number(0.2, "s", "age of the measured arm state; beyond it the arm holds", gt=0, le=1)
    future_tolerance_s: Number = number(
        0.05, "s", "how far ahead of this machine's clock a stamp may lie", ge=0, le=0.5
    )


class Clock(Section):
    """What counts as a clock that went backwards."""

    backwards_tolerance_s: Number = number(
        0.05, "s", "backward step that is ignored (threads racing); more stops the arm", ge=0, le=0.5
    )


class Watchdog(Section):
    """What happens when actions stop coming."""

    silence_s: Number = number(1.0, "s", "time without a valid action after which the state is HOLDING", gt=0, le=30)


class RateLimits(Section):
    """How often a command may be given, and an action may come."""

    min_interval_s: Number = number(0.02, "s", "shortest time between two accepted actions", gt=0, le=1)
    max_actions_per_s: int = number(
        200, "1/s", "actions within one second, of whatever kind, that stop the arm: a flood", ge=20, le=10000
    )


class PlausibleLimits(Section):
    """Beyond these an action is no large motion but an error (units, frame, wrong unnorm_key): refused, not scaled."""

    translation_m: Number = number(1.0, "m", "largest translation component that is believed", gt=0, le=10)
    rotation_rad: Number = number(
        3.15, "rad", "largest roll, pitch or yaw that is believed (pi and a little)", gt=0, le=6.3
    )


class DurationLimits(Section):
    """The time given to the driver for one motion."""

    min_s: Number = number(0.05, "s", "shortest; a shorter one is lengthened", ge=0.005, le=1)
    max_s: Number = number(2.0, "s", "longest; a longer one is shortened (speed limits still hold)", gt=0, le=10)


class RampInSchedule(Section):
    """Small steps first, so that people see the arm wake up before it moves at full size."""

    duration_s: Number = number(1.0, "s", "time from the first accepted action to the full step limit", ge=0, le=30)
    start_fraction: Number = number(0.25, "1", "share of the step limit that the first action gets", gt=0, le=1)
    after_silence_s: Number = number(
        3.0,
        "s",
        "silence after which the ramp starts again; below it, slow blocking control would never leave it",
        ge=0,
        le=60,
    )


class MotionLimits(Section):
    """Limits of one step. A vector beyond a limit is scaled: its direction is kept. Translation and rotation each."""

    max_step_m: Number = number(0.05, "m", "length of one step", gt=0, le=0.3)
    max_step_rad: Number = number(0.25, "rad", "angle of one step", gt=0, le=1.0)
    max_speed_m_s: Number = number(0.25, "m/s", "speed of the commanded position", gt=0, le=1.7)
    max_speed_rad_s: Number = number(1.25, "rad/s", "speed of the commanded orientation", gt=0, le=3.0)
    max_acceleration_m_s2: Number = number(2.5, "m/s^2", "change of commanded velocity, stops included", gt=0, le=13)
    max_acceleration_rad_s2: Number = number(12.5, "rad/s^2", "the same for angular velocity", gt=0, le=60)
    max_link_speed_m_s: Number = number(0.55, "m/s", "speed of every point of every link that moves", gt=0, le=3.0)
    lead_s: Number = number(
        0.03, "s", "from a decision until it takes effect: time for the command to reach the driver", ge=0, le=0.2
    )

    @property
    def window(self) -> float:
        """Time [s] in which the commanded velocity reaches its limit from rest: what each step is smoothed over."""
        linear = self.max_speed_m_s / self.max_acceleration_m_s2
        return max(linear, self.max_speed_rad_s / self.max_acceleration_rad_s2, 0.02)


class TrackingLimits(Section):
    """How far the commanded pose may be from the measured one (a blocked or pushed arm)."""

    max_error_m: Number = number(0.10, "m", "distance beyond which the target does not run ahead", gt=0, le=0.5)
    max_error_rad: Number = number(0.6, "rad", "the same for the angle", gt=0, le=1.5)
    hold_factor: Number = number(
        1.5, "1", "beyond this multiple the arm was moved away: it holds where it is", ge=1.05, le=5
    )


class WorkspaceLimits(Section):
    """Where the end effector may be: a box in position and a box in orientation.

    The orientation box bounds the rotation vector, about the base axes, from ``reference_quaternion`` to the target.
    Plain roll, pitch, yaw would be singular exactly at Bridge's working pose (gripper down is pitch 90 degrees);
    relative to that pose a rotation vector is unique up to pi, and its z is what is meant by yaw.
    """

    lower_m: Vector = number((0.10, -0.20, -0.01), "m", "lower corner (x, y, z), base frame", live=False)
    upper_m: Vector = number((0.45, 0.25, 0.30), "m", "upper corner (x, y, z), base frame", live=False)
    reference_quaternion: tuple[Number, Number, Number, Number] = number(
        (0.0, math.sqrt(0.5), 0.0, math.sqrt(0.5)),
        "1",
        "orientation (x, y, z, w) that the box is relative to; default: gripper pointing down",
        live=False,
    )
    rotation_lower_rad: Vector = number(
        (-1.0, -1.0, -1.57), "rad", "lower bounds of the rotation vector from the reference", live=False
    )
    rotation_upper_rad: Vector = number(
        (1.0, 1.0, 1.57), "rad", "upper bounds of the rotation vector from the reference", live=False
    )


class Joints(Section):
    """What the arm's joints may do. The limits themselves are the robot description's."""

    margin_rad: Number = number(0.03, "rad", "distance kept from both ends of every joint's range", ge=0.005, le=0.5)
    speed_fraction: Number = number(0.9, "1", "share of each joint's own maximum speed that is used", gt=0, le=0.98)
    max_lag_rad: Number = number(
        0.2, "rad", "lag of a joint beyond which paths are judged from the measured positions", gt=0, le=1
    )


class SingularityLimits(Section):
    """Where the arm loses a direction: the Jacobian's smallest singular value, in m and rad, nears 0."""

    slow_down: Number = number(0.05, "1", "smallest singular value below which it falls ever more slowly", gt=0, le=1)
    stop: Number = number(0.02, "1", "smallest singular value that it never falls below", gt=0, le=1)
    approach_s: Number = number(0.2, "s", "time constant of the approach in between", ge=0.05, le=5)


class Collision(Section):
    """Distance of the arm's links from each other, from the table, which is a plane, and from what else is around."""

    self_slow_down_m: Number = number(0.03, "m", "distance of two links below which they near slowly", gt=0, le=0.3)
    self_stop_m: Number = number(0.01, "m", "distance of two links that is kept", gt=0, le=0.2)
    table_height_m: Number = number(
        -0.02, "m", "height of the table's top, base frame; far down: none", ge=-5, le=1, live=False
    )
    table_slow_down_m: Number = number(0.03, "m", "height above the table below which links sink slowly", gt=0, le=0.3)
    table_stop_m: Number = number(0.003, "m", "height above the table that is kept", ge=0, le=0.2)
    obstacle_slow_down_m: Number = number(
        0.03, "m", "distance from keep-out boxes and whole_arm's walls below which links near slowly", gt=0, le=0.3
    )
    obstacle_stop_m: Number = number(
        0.01, "m", "distance from them that is kept; a path is judged every 0.02 m", ge=0.005, le=0.2
    )
    approach_s: Number = number(0.2, "s", "time constant of the approach from slow_down to stop", ge=0.05, le=5)


class Walls(Section):
    """Walls, a cage, a ceiling: a box that nothing of the arm leaves. The workspace is the end effector's point's."""

    lower_m: Vector | None = number(None, "m", "lower corner (x, y, z), base frame; none: no such walls", live=False)
    upper_m: Vector | None = number(None, "m", "upper corner (x, y, z), base frame; none: no such walls", live=False)


class HeldObject(Section):
    """Room for what the gripper may hold, a cylinder around the hand's axis; both 0: none."""

    ahead_m: Number = number(0.0, "m", "how far it reaches beyond the fingertips", ge=0, le=0.5, live=False)
    aside_m: Number = number(0.0, "m", "how far it reaches sideways from the hand's axis", ge=0, le=0.5, live=False)


class Box(Section):
    """An axis-aligned box in the base frame that neither the end effector's point nor any link that moves enters."""

    name: str = Field(min_length=1)
    lower_m: Vector
    upper_m: Vector


class GripperLimits(Section):
    """The absolute gripper target, 0 closed to 1 open. Never part of a step limit."""

    min: Number = number(0.0, "1", "most closed", ge=0, le=1)
    max: Number = number(1.0, "1", "most open", ge=0, le=1)
    max_rate_per_s: Number | None = number(10.0, "1/s", "change of the target per second; none: not limited", gt=0)


class FreezeLimits(Section):
    """A policy that asks for nothing, again and again. Reported, not limited."""

    actions: int | None = number(None, "1", "this many still actions in a row are reported; none: off", gt=1)
    translation_m: Number = number(0.001, "m", "a step below this is still", gt=0, le=0.05)
    rotation_rad: Number = number(0.005, "rad", "a rotation below this is still", gt=0, le=0.25)
    gripper: Number = number(0.05, "1", "a change of gripper target below this is still", gt=0, le=1)


class ContactLimits(Section):
    """External force and joint effort at which the arm stops, if the arm reports them."""

    max_force_n: Number | None = number(None, "N", "external force at the end effector; none: off", gt=0)
    max_torque_n_m: Number | None = number(None, "N m", "external torque at the end effector; none: off", gt=0)
    max_efforts_n_m: tuple[Number, ...] | None = number(
        None, "N m", "effort of each joint, in the robot description's order; none: off", live=False
    )


class CameraTimeout(Section):
    """The policy's word that it sees, without which the arm holds."""

    timeout_s: Number | None = number(
        None,
        "s",
        "time without a usable image, told on `observation`, after which the arm holds; none: the policy alone watches",
        ge=0.05,
        le=5,
    )


class DeadmanTimeout(Section):
    """An operator's heartbeat without which the arm stops."""

    timeout_s: Number | None = number(
        None, "s", "time without a heartbeat that stops the arm; none: no heartbeat needed", live=False, gt=0, le=5
    )


class EStopTimeout(Section):
    """A guard of the wire to the stop button."""

    timeout_s: Number | None = number(
        None,
        "s",
        "silence of the e_stop topic that stops the arm, for a button that repeats its level; none: it may be silent",
        live=False,
        ge=0.05,
        le=5,
    )


class SafetyConfig(Section):
    """All of it. A wrong or contradictory value raises ConfigError naming the field."""

    freshness: Freshness = Freshness()
    clock: Clock = Clock()
    watchdog: Watchdog = Watchdog()
    rate: RateLimits = RateLimits()
    plausible: PlausibleLimits = PlausibleLimits()
    duration: DurationLimits = DurationLimits()
    ramp_in: RampInSchedule = RampInSchedule()
    motion: MotionLimits = MotionLimits()
    tracking: TrackingLimits = TrackingLimits()
    workspace: WorkspaceLimits = WorkspaceLimits()
    keep_out: tuple[Box, ...] = number((), "m", "boxes (name, lower_m, upper_m) not to enter", live=False)
    joints: Joints = Joints()
    singularity: SingularityLimits = SingularityLimits()
    collision: Collision = Collision()
    whole_arm: Walls = Walls()
    held_object: HeldObject = HeldObject()
    gripper: GripperLimits = GripperLimits()
    freeze: FreezeLimits = FreezeLimits()
    contact: ContactLimits = ContactLimits()
    camera: CameraTimeout = CameraTimeout()
    deadman: DeadmanTimeout = DeadmanTimeout()
    e_stop: EStopTimeout = EStopTimeout()

    def __init__(self, **sections: Any) -> None:
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise ConfigError("; ".join(_explain(error))) from error

    def fields(self) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """(dotted name, value, {description, unit, live}) of every parameter."""
        for section_name, section_info in type(self).model_fields.items():
            section = getattr(self, section_name)
            named = type(section).model_fields.items() if isinstance(section, Section) else [("", section_info)]
            for name, info in named:
                extra = info.json_schema_extra
                assert isinstance(extra, dict)
                value = getattr(section, name) if name else section
                yield f"{section_name}.{name}".rstrip("."), value, {"description": info.description, **extra}

    def place(self, model: ArmModel) -> ArmModel:
        """The arm among the keep-out boxes, with the object in its hand that is to be allowed for."""
        boxes = tuple((box.lower_m, box.upper_m) for box in self.keep_out)
        return model.among(boxes, self.held_object.ahead_m, self.held_object.aside_m)

    @model_validator(mode="after")
    def _not_contradictory(self) -> SafetyConfig:
        for problem in _contradictions(self):
            raise ValueError(problem)
        return self


def _contradictions(config: SafetyConfig) -> Iterator[str]:
    box, motion, tracking = config.workspace, config.motion, config.tracking
    for i, axis in enumerate(AXES):
        if not box.lower_m[i] < box.upper_m[i]:
            yield f"workspace.lower_m: {axis} = {box.lower_m[i]} must be below upper_m's {box.upper_m[i]}"
        if not box.rotation_lower_rad[i] < box.rotation_upper_rad[i]:
            upper = box.rotation_upper_rad[i]
            yield f"workspace.rotation_lower_rad: {axis} = {box.rotation_lower_rad[i]} must be below upper's {upper}"
    bounds = box.rotation_lower_rad, box.rotation_upper_rad
    corner = math.hypot(*(max(abs(a), abs(b)) for a, b in zip(*bounds, strict=True)))
    if corner + motion.max_step_rad >= math.pi:
        yield (
            f"workspace.rotation_upper_rad: the corner of the orientation box is {corner:.2f} rad from the reference; "
            f"with a step (motion.max_step_rad) it must stay below pi, where a rotation vector changes sign"
        )
    if abs(math.hypot(*box.reference_quaternion) - 1) > 1e-3:
        yield f"workspace.reference_quaternion: length {math.hypot(*box.reference_quaternion):.4f} must be 1"
    for keep_out in config.keep_out:
        low, high = keep_out.lower_m, keep_out.upper_m
        if not all(low[i] < high[i] for i in range(3)):
            yield f"keep_out '{keep_out.name}': lower_m must be below upper_m in x, y and z"
        if all(low[i] <= box.lower_m[i] and high[i] >= box.upper_m[i] for i in range(3)):
            yield f"keep_out '{keep_out.name}': covers the whole workspace"
    walls = config.whole_arm
    if walls.lower_m and walls.upper_m:
        narrow = [n for n, low, high in zip(AXES, walls.lower_m, walls.upper_m, strict=True) if not low < high]
        if narrow:
            yield f"whole_arm.lower_m: must be below upper_m in {', '.join(narrow)}"
    if tracking.max_error_m < motion.max_step_m:
        yield f"tracking.max_error_m: {tracking.max_error_m} must be at least motion.max_step_m ({motion.max_step_m})"
    if tracking.max_error_rad < motion.max_step_rad:
        yield f"tracking.max_error_rad: {tracking.max_error_rad} must be at least motion.max_step_rad"
    singularity, collision = config.singularity, config.collision
    for name, slow_down, stop in (
        ("singularity.slow_down", singularity.slow_down, singularity.stop),
        ("collision.self_slow_down_m", collision.self_slow_down_m, collision.self_stop_m),
        ("collision.table_slow_down_m", collision.table_slow_down_m, collision.table_stop_m),
        ("collision.obstacle_slow_down_m", collision.obstacle_slow_down_m, collision.obstacle_stop_m),
    ):
        if not slow_down > stop:
            yield f"{name}: {slow_down} must be above {stop}, where the motion stops"
    if not config.duration.min_s <= config.duration.max_s:
        yield f"duration.min_s: {config.duration.min_s} must not exceed duration.max_s ({config.duration.max_s})"
    if not config.gripper.min < config.gripper.max:
        yield f"gripper.min: {config.gripper.min} must be below gripper.max ({config.gripper.max})"
    if config.freshness.observation_max_age_s < config.freshness.action_max_age_s:
        yield "freshness.observation_max_age_s: must not be below action_max_age_s: an image is older than its action"
    if config.watchdog.silence_s <= config.rate.min_interval_s:
        yield "watchdog.silence_s: must be above rate.min_interval_s, or the filter holds between any two actions"
    if config.contact.max_efforts_n_m is not None and not all(e > 0 for e in config.contact.max_efforts_n_m):
        yield "contact.max_efforts_n_m: every joint's effort limit must be above 0"


def _explain(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        yield f"{name}: {item['input']!r} is not allowed: {message}" if name else message
