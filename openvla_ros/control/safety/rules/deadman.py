"""With a deadman configured, the arm moves only while the operator's heartbeat comes."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context
from openvla_ros.types import RuleReport


class Deadman:
    def __init__(self, config: SafetyConfig) -> None:
        self._timeout = config.deadman.timeout_s

    def __call__(self, context: Context) -> RuleReport | None:
        if self._timeout is None or context.now - context.heartbeat <= self._timeout:
            return None
        silence = context.now - context.heartbeat
        return RuleReport("deadman", "no operator heartbeat for [s]", silence, 0.0, self._timeout)
