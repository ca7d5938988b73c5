"""A target has joint positions: the straight line to it can be followed from where the joints are."""

from __future__ import annotations

import math

from openvla_ros.control.safety.arm import ArmModel, JointPath
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Objection

CODE = "unreachable"


class Reachable:
    def __init__(self, config: SafetyConfig, model: ArmModel) -> None:
        pass

    def __call__(self, path: JointPath, context: Context) -> Objection | None:
        if path.reached:
            return None
        return Objection(CODE, "no joint positions lead there: step cut", math.nan, lambda path: math.nan)
