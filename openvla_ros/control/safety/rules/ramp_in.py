"""After a start, a stop or a long silence the first steps are small, and slow."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Motion, limit_lengths
from openvla_ros.types import RuleReport

CODE = "ramp_in"


class Ramp:
    """A share that grows linearly from a fraction to 1."""

    def __init__(self, config: SafetyConfig) -> None:
        self._config = config.ramp_in

    def share(self, context: Context) -> float:
        elapsed = context.now - context.motion_started
        if elapsed >= self._config.duration_s:
            return 1.0
        start = self._config.start_fraction
        return start + (1 - start) * elapsed / self._config.duration_s


class RampIn:
    """The step limit is that share of its full size, and so is the speed limit (rules/pace.py)."""

    def __init__(self, config: SafetyConfig) -> None:
        self._ramp = Ramp(config)
        self._motion = config.motion

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        share = self._ramp.share(context)
        if share >= 1:
            return motion, []
        metres, radians = share * self._motion.max_step_m, share * self._motion.max_step_rad
        return limit_lengths(motion, CODE, metres, radians, f"motion has just begun, {share:.0%} of a step")
