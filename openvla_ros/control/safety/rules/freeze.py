"""A policy that asks for nothing again and again is reported, so that an episode can end. The motion is not changed."""

from __future__ import annotations

from openvla_ros.control.safety.config import FreezeLimits, SafetyConfig
from openvla_ros.control.safety.motion import Accepted, Context, Motion, length
from openvla_ros.types import Action, RuleReport

CODE = "freeze"


class Freeze:
    def __init__(self, config: SafetyConfig) -> None:
        self._limit = config.freeze.actions

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        if self._limit is None or context.still_actions < self._limit:
            return motion, []
        detail = "this many actions in a row asked for no motion"
        return motion, [RuleReport(CODE, detail, float(context.still_actions), float("nan"), float(self._limit))]


def is_still(action: Action, accepted: Accepted | None, config: FreezeLimits) -> bool:
    """Whether an action asks for no motion of arm or gripper."""
    gripper_moves = accepted is not None and abs(action.gripper - accepted.gripper) > config.gripper
    moves = length(action.translation) > config.translation_m or length(action.rotation) > config.rotation_rad
    return not (moves or gripper_moves)
