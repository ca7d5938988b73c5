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

from openvla_ros.errors import ConfigError

Number = Annotated[float, Strict()]  # a YAML `yes` or "0.05" is a mistake, not 1.0
Vector = tuple[Number, Number, Number]
AXES = "xyz"


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


class Rate(Section):
    """How often a command may be given, and an action may come."""

    min_interval_s: Number = number(0.02, "s", "shortest time between two accepted actions", gt=0, le=1)
    max_actions_per_s: int = number(
        200, "1/s", "actions within one second, of whatever kind, that stop the arm: a flood", ge=20, le=10000
    )


class Plausible(Section):
    """Beyond these an action is no large motion but an error (units, frame, wrong unnorm_key): refused, not scaled."""

    translation_m: Number = number(1.0, "m", "largest translation component that is believed", gt=0, le=10)
    rotation_rad: Number = number(
        3.15, "rad", "largest roll, pitch or yaw that is believed (pi and a little)", gt=0, le=6.3
    )


class Duration(Section):
    """The time given to the driver for one motion."""

    min_s: Number = number(0.05, "s", "shortest; a shorter one is lengthened", ge=0.005, le=1)
    max_s: Number = number(2.0, "s", "longest; a longer one is shortened (speed limits still hold)", gt=0, le=10)


class RampIn(Section):
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


class Motion(Section):
    """Limits of one step. A vector beyond a limit is scaled: its direction is kept. Translation and rotation each."""

    max_step_m: Number = number(0.05, "m", "length of one step", gt=0, le=0.3)
    max_step_rad: Number = number(0.25, "rad", "angle of one step", gt=0, le=1.0)
    max_speed_m_s: Number = number(0.25, "m/s", "speed of the commanded position", gt=0, le=1.7)
    max_speed_rad_s: Number = number(1.25, "rad/s", "speed of the commanded orientation", gt=0, le=3.0)
    max_acceleration_m_s2: Number = number(
        2.5, "m/s^2", "change of commanded velocity over a step, braking excepted", gt=0, le=13
    )
    max_acceleration_rad_s2: Number = number(12.5, "rad/s^2", "the same for angular velocity", gt=0, le=60)


class Tracking(Section):
    """How far the commanded pose may be from the measured one (a blocked or pushed arm)."""

    max_error_m: Number = number(0.10, "m", "distance beyond which the target does not run ahead", gt=0, le=0.5)
    max_error_rad: Number = number(0.6, "rad", "the same for the angle", gt=0, le=1.5)
    hold_factor: Number = number(
        1.5, "1", "beyond this multiple the arm was moved away: it holds where it is", ge=1.05, le=5
    )


class Workspace(Section):
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


class Box(Section):
    """An axis-aligned box in the base frame that the end effector must not enter."""

    name: str = Field(min_length=1)
    lower_m: Vector
    upper_m: Vector


class Gripper(Section):
    """The absolute gripper target, 0 closed to 1 open. Never part of a step limit."""

    min: Number = number(0.0, "1", "most closed", ge=0, le=1)
    max: Number = number(1.0, "1", "most open", ge=0, le=1)
    max_rate_per_s: Number | None = number(None, "1/s", "change of the target per second; none: not limited", gt=0)


class Freeze(Section):
    """A policy that asks for nothing, again and again. Reported, not limited."""

    actions: int | None = number(None, "1", "this many still actions in a row are reported; none: off", gt=1)
    translation_m: Number = number(0.001, "m", "a step below this is still", gt=0, le=0.05)
    rotation_rad: Number = number(0.005, "rad", "a rotation below this is still", gt=0, le=0.25)
    gripper: Number = number(0.05, "1", "a change of gripper target below this is still", gt=0, le=1)


class Contact(Section):
    """External force and joint effort at which the arm stops, if the arm reports them."""

    max_force_n: Number | None = number(None, "N", "external force at the end effector; none: off", gt=0)
    max_torque_n_m: Number | None = number(None, "N m", "external torque at the end effector; none: off", gt=0)
    max_efforts_n_m: tuple[Number, ...] | None = number(
        None, "N m", "effort of each joint, in the robot description's order; none: off", live=False
    )


class Deadman(Section):
    """An operator's heartbeat without which the arm stops."""

    timeout_s: Number | None = number(
        None, "s", "time without a heartbeat that stops the arm; none: no heartbeat needed", live=False, gt=0, le=5
    )


class EStop(Section):
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
    rate: Rate = Rate()
    plausible: Plausible = Plausible()
    duration: Duration = Duration()
    ramp_in: RampIn = RampIn()
    motion: Motion = Motion()
    tracking: Tracking = Tracking()
    workspace: Workspace = Workspace()
    keep_out: tuple[Box, ...] = number((), "m", "boxes (name, lower_m, upper_m) not to enter", live=False)
    gripper: Gripper = Gripper()
    freeze: Freeze = Freeze()
    contact: Contact = Contact()
    deadman: Deadman = Deadman()
    e_stop: EStop = EStop()

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

    def check_robot(
        self,
        *,
        start: Vector | None = None,
        reach_m: float | None = None,
        speed_m_s: float | None = None,
        speed_rad_s: float | None = None,
    ) -> None:
        """ConfigError where this contradicts the arm: its start position (3,) [m], its reach, its own speed limits."""
        for problem in _contradictions_of_the_arm(self, start, reach_m, speed_m_s, speed_rad_s):
            raise ConfigError(problem)

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
    if tracking.max_error_m < motion.max_step_m:
        yield f"tracking.max_error_m: {tracking.max_error_m} must be at least motion.max_step_m ({motion.max_step_m})"
    if tracking.max_error_rad < motion.max_step_rad:
        yield f"tracking.max_error_rad: {tracking.max_error_rad} must be at least motion.max_step_rad"
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


def _contradictions_of_the_arm(
    config: SafetyConfig,
    start: Vector | None,
    reach_m: float | None,
    speed_m_s: float | None,
    speed_rad_s: float | None,
) -> Iterator[str]:
    low, high, motion = config.workspace.lower_m, config.workspace.upper_m, config.motion
    if start is not None:
        for i, axis in enumerate(AXES):
            if not low[i] <= start[i] <= high[i]:
                yield f"workspace.{axis}: the start position {start[i]:.3f} m lies outside {low[i]} to {high[i]} m"
        for box in config.keep_out:
            if all(box.lower_m[i] <= start[i] <= box.upper_m[i] for i in range(3)):
                yield f"keep_out '{box.name}': the start position {start} lies inside it"
    if reach_m is not None:
        nearest = math.hypot(*(max(low[i], -high[i], 0.0) for i in range(3)))
        if nearest > reach_m or max(map(abs, (*low, *high))) > 1.5 * reach_m:
            yield f"workspace.lower_m/upper_m: {low} to {high} m does not fit an arm that reaches {reach_m} m"
    if speed_m_s is not None and motion.max_speed_m_s > speed_m_s:
        yield f"motion.max_speed_m_s: {motion.max_speed_m_s} is above the arm's own limit of {speed_m_s} m/s"
    if speed_rad_s is not None and motion.max_speed_rad_s > speed_rad_s:
        yield f"motion.max_speed_rad_s: {motion.max_speed_rad_s} is above the arm's own limit of {speed_rad_s} rad/s"


def _explain(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        yield f"{name}: {item['input']!r} is not allowed: {message}" if name else message
