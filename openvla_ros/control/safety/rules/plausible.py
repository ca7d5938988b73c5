"""An action far beyond anything an arm does in one step is an error upstream, not a motion to be scaled down."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context
from openvla_ros.types import RuleReport, StampedAction

CODE = "implausible"


class Plausible:
    def __init__(self, config: SafetyConfig) -> None:
        self._config = config.plausible

    def __call__(self, action: StampedAction, context: Context) -> list[RuleReport]:
        reports = []
        metres, radians = max(map(abs, action.action.translation)), max(map(abs, action.action.rotation))
        limit = self._config.translation_m
        if metres > limit:
            detail = "translation [m] is not a step of an arm: check units, frame and unnorm_key"
            reports.append(RuleReport(CODE, detail, float(metres), 0.0, limit))
        limit = self._config.rotation_rad
        if radians > limit:
            detail = "rotation [rad] is not a step of an arm: check units and unnorm_key"
            reports.append(RuleReport(CODE, detail, float(radians), 0.0, limit))
        if action.duration <= 0:
            reports.append(RuleReport(CODE, "duration [s] must be above 0", action.duration, 0.0, 0.0))
        return reports
