"""The gripper target is absolute: it has a range and a rate. It is never part of a step limit."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Motion
from openvla_ros.types import RuleReport

CODE = "gripper"


class GripperTarget:
    def __init__(self, config: SafetyConfig) -> None:
        self._config = config.gripper

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        assert context.arm is not None  # the freshness gate comes first
        asked, config = motion.gripper, self._config
        allowed = asked
        if config.max_rate_per_s is not None:
            before = context.accepted.gripper if context.accepted else context.arm.gripper
            most = config.max_rate_per_s * min(motion.duration, context.interval)
            allowed = min(max(allowed, before - most), before + most)
        allowed = min(max(allowed, config.min), config.max)  # last: the range holds even where the arm starts outside
        if allowed == asked:
            return motion, []
        limit = config.max if asked > config.max else config.min if asked < config.min else allowed
        return motion.with_gripper(allowed), [RuleReport(CODE, "gripper target bounded", asked, allowed, limit)]
