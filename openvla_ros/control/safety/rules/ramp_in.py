"""After a start, a stop or a long silence the first steps are small."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Motion, limit_lengths
from openvla_ros.types import RuleReport

CODE = "ramp_in"


class RampIn:
    """The step limit grows linearly from a fraction to its full size. Steps below it pass unchanged."""

    def __init__(self, config: SafetyConfig) -> None:
        self._ramp = config.ramp_in
        self._motion = config.motion

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        elapsed = context.now - context.motion_started
        if elapsed >= self._ramp.duration_s:
            return motion, []
        start = self._ramp.start_fraction
        share = start + (1 - start) * elapsed / self._ramp.duration_s
        metres, radians = share * self._motion.max_step_m, share * self._motion.max_step_rad
        return limit_lengths(motion, CODE, metres, radians, f"motion has just begun, {share:.0%} of a step")
