"""External force or joint effort beyond a limit stops the arm, where the arm reports them."""

from __future__ import annotations

import numpy as np

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, length
from openvla_ros.types import RuleReport


class Wrench:
    """Force and torque at the end effector. A limit without a measurement stops, too: it would protect nobody."""

    def __init__(self, config: SafetyConfig) -> None:
        self._force, self._torque = config.contact.max_force_n, config.contact.max_torque_n_m

    def __call__(self, context: Context) -> RuleReport | None:
        if context.arm is None or (self._force is None and self._torque is None):
            return None
        wrench = context.arm.wrench
        if wrench is None:
            return RuleReport("wrench", "a force or torque limit is configured, but this arm reports no wrench")
        for what, value, limit in (
            ("force [N]", length(wrench[:3]), self._force),
            ("torque [N m]", length(wrench[3:]), self._torque),
        ):
            if limit is not None and value > limit:
                return RuleReport("wrench", f"external {what} beyond its limit", value, 0.0, limit)
        return None


class Effort:
    """Effort of each joint."""

    def __init__(self, config: SafetyConfig) -> None:
        efforts = config.contact.max_efforts_n_m
        self._limits = None if efforts is None else np.array(efforts)

    def __call__(self, context: Context) -> RuleReport | None:
        if context.arm is None or self._limits is None:
            return None
        efforts = context.arm.joint_efforts
        if efforts is None or efforts.shape != self._limits.shape:
            found = 0 if efforts is None else efforts.size
            detail = f"{self._limits.size} effort limits are configured, but this arm reports {found} joint efforts"
            return RuleReport("effort", detail)
        worst = int(np.argmax(np.abs(efforts) / self._limits))
        value, limit = float(abs(efforts[worst])), float(self._limits[worst])
        if value <= limit:
            return None
        return RuleReport("effort", f"joint {worst + 1}'s effort [N m] beyond its limit", value, 0.0, limit)
