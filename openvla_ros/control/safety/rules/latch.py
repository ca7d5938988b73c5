"""Nothing passes while the filter is stopped."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context
from openvla_ros.types import RuleReport, StampedAction

CODE = "stopped"


class Latch:
    def __init__(self, config: SafetyConfig) -> None:
        pass

    def __call__(self, action: StampedAction, context: Context) -> list[RuleReport]:
        return [RuleReport(CODE, context.stop_reason)] if context.stop_reason else []
