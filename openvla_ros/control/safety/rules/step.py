"""One step is bounded in length and in angle; a longer one is scaled and keeps its direction."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Motion, limit_lengths
from openvla_ros.types import RuleReport

CODE = "step"


class StepSize:
    def __init__(self, config: SafetyConfig) -> None:
        self._config = config.motion

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        return limit_lengths(motion, CODE, self._config.max_step_m, self._config.max_step_rad, "longest step")
