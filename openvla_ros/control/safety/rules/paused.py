"""A reset moves nothing: after it, an action passes only on a deliberate act that is newer.

Such an act is ``resume``, an activation of the policy, or another instruction: the latter two travel in the action.
"""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context
from openvla_ros.types import RuleReport, StampedAction

CODE = "paused"
DETAIL = "re-armed: resume, activate the policy or give another instruction to go on"


class Paused:
    def __init__(self, config: SafetyConfig) -> None:
        pass

    def __call__(self, action: StampedAction, context: Context) -> list[RuleReport]:
        if not context.paused or action.control_since > context.paused_at:
            return []
        return [RuleReport(CODE, DETAIL)]
