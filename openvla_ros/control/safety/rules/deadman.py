"""With a deadman configured, the arm moves only while the operator's heartbeat comes."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, silence
from openvla_ros.types import RuleReport


class Deadman:
    def __init__(self, config: SafetyConfig) -> None:
        self._timeout = config.deadman.timeout_s

    def __call__(self, context: Context) -> RuleReport | None:
        return silence("deadman", "no operator heartbeat for [s]", context.heartbeat, self._timeout, context.now)
