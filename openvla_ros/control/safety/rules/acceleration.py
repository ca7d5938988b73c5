"""The commanded velocity changes no faster than the limit from one step to the next; braking is always allowed."""

from __future__ import annotations

import math

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import TOLERANCE, Context, Motion, largest_share
from openvla_ros.types import Array, RuleReport

CODE = "acceleration"


class Acceleration:
    """Scales the step until the change of velocity fits.

    A component that slows down towards zero counts nothing: a limit on braking would oblige the arm to go on. One that
    reverses counts in full, so with a low limit the arm stands still before it turns back.
    """

    def __init__(self, config: SafetyConfig) -> None:
        self._config = config.motion

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        time = context.time_for(motion)
        linear, angular = context.velocities()
        reports = []
        limit = self._config.max_acceleration_m_s2
        translation, report = _scaled(motion.translation, linear, time, limit, "translation [m/s^2] scaled")
        if report:
            motion = motion.with_translation(translation)
            reports.append(report)
        limit = self._config.max_acceleration_rad_s2
        rotvec, report = _scaled(motion.rotvec, angular, time, limit, "rotation [rad/s^2] scaled")
        if report:
            motion = motion.with_rotvec(rotvec)
            reports.append(report)
        return motion, reports


def velocity_change(velocity: Array, before: Array) -> float:
    """Length of the change from ``before`` (3,) to ``velocity`` (3,), without the components that only brake.

    Never grows when components of ``velocity`` shrink towards zero: narrowing a step later cannot break the limit.
    """
    total = 0.0
    for new, old in zip(velocity.tolist(), before.tolist(), strict=True):
        brakes = 0 <= new <= old or old <= new <= 0
        total += 0.0 if brakes else (new - old) ** 2
    return math.sqrt(total)


def _scaled(step: Array, before: Array, time: float, limit: float, detail: str) -> tuple[Array, RuleReport | None]:
    asked = velocity_change(step / time, before) / time

    def allowed(share: float) -> bool:
        return velocity_change(share * step / time, before) <= limit * time * (1 + TOLERANCE)

    if asked <= limit * (1 + TOLERANCE):
        return step, None
    step = largest_share(allowed) * step
    return step, RuleReport(CODE, detail, asked, velocity_change(step / time, before) / time, limit)
