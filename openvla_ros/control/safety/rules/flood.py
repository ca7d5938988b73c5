"""More actions than any control loop sends stop the arm: whoever publishes them has lost control of itself."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context
from openvla_ros.types import RuleReport


class Flood:
    def __init__(self, config: SafetyConfig) -> None:
        self._limit = config.rate.max_actions_per_s

    def __call__(self, context: Context) -> RuleReport | None:
        times = context.arrivals
        if len(times) <= self._limit or context.now - times[-self._limit - 1] >= 1.0:
            return None
        rate = self._limit / max(context.now - times[-self._limit - 1], 1e-3)
        return RuleReport("flood", "actions within a second, about [1/s]", rate, 0.0, self._limit)
