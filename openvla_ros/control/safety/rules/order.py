"""Actions are taken once and in their order: no duplicate, none from before the last one."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context
from openvla_ros.types import RuleReport, StampedAction

CODE = "sequence"


class Order:
    """The sequence number must rise while actions are coming; stamps must rise always.

    A restarted policy counts from 1 again. It is taken on once the filter is no longer ACTIVE (the restart takes longer
    than the watchdog), with stamps that are newer than all before.
    """

    def __init__(self, config: SafetyConfig) -> None:
        pass

    def __call__(self, action: StampedAction, context: Context) -> list[RuleReport]:
        seen = context.seen
        if seen is None:
            return []
        reports = []
        if context.active and action.sequence <= seen.sequence:
            detail = "sequence number is not above the last one"
            reports.append(RuleReport(CODE, detail, float(action.sequence), 0.0, float(seen.sequence)))
        if action.stamp <= seen.stamp:
            detail = "action is no newer than the last one [s]"
            reports.append(RuleReport(CODE, detail, action.stamp, 0.0, seen.stamp))
        if action.observation_stamp < seen.observation_stamp:
            detail = "image behind the action is older than the last one [s]"
            reports.append(RuleReport(CODE, detail, action.observation_stamp, 0.0, seen.observation_stamp))
        return reports
