"""A motion gets a bounded time, and never less than the last one still needs: that would speed the arm up."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Motion
from openvla_ros.types import RuleReport

CODE = "duration"


class Duration:
    def __init__(self, config: SafetyConfig) -> None:
        self._config = config.duration

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        remaining = context.accepted.until - context.now if context.accepted else 0.0
        shortest = max(self._config.min_s, remaining)
        asked = motion.duration
        allowed = max(min(asked, self._config.max_s), shortest)
        if allowed == asked:
            return motion, []
        limit = shortest if allowed > asked else self._config.max_s
        return motion.with_duration(allowed), [RuleReport(CODE, "duration [s] bounded", asked, allowed, limit)]
