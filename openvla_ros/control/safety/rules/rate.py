"""A flood of actions does not become a flood of commands."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context
from openvla_ros.types import RuleReport, StampedAction

CODE = "rate"


class Rate:
    def __init__(self, config: SafetyConfig) -> None:
        self._limit = config.rate.min_interval_s

    def __call__(self, action: StampedAction, context: Context) -> list[RuleReport]:
        if context.interval >= self._limit:
            return []
        return [RuleReport(CODE, "too soon after the last action [s]", context.interval, 0.0, self._limit)]
