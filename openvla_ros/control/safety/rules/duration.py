"""A step gets a bounded time, and never ends before the one before: the course stays between the targets."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Motion
from openvla_ros.types import RuleReport

CODE = "duration"


class Duration:
    def __init__(self, config: SafetyConfig) -> None:
        self._config = config.duration

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        remaining = context.accepted.course.busy_until - motion.start if context.accepted else 0.0
        shortest = max(self._config.min_s, remaining)
        asked = motion.duration
        allowed = max(min(asked, self._config.max_s), shortest)
        if allowed == asked:
            return motion, []
        limit = shortest if allowed > asked else self._config.max_s
        return motion.with_duration(allowed), [RuleReport(CODE, "duration [s] bounded", asked, allowed, limit)]
