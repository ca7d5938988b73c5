"""Nothing moves on old knowledge: the action, the image behind it and the arm state must all be fresh."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context
from openvla_ros.types import ArmState, RuleReport, StampedAction


class Fresh:
    def __init__(self, config: SafetyConfig) -> None:
        self._config = config.freshness

    def __call__(self, action: StampedAction, context: Context) -> list[RuleReport]:
        limits = self._config
        reports = []
        for code, what, stamp, limit in (
            ("stale_action", "action", action.stamp, limits.action_max_age_s),
            ("stale_observation", "image behind the action", action.observation_stamp, limits.observation_max_age_s),
        ):
            age = context.now - stamp
            if age > limit:
                reports.append(RuleReport(code, f"{what} is too old [s]", age, 0.0, limit))
            elif age < -limits.future_tolerance_s:
                detail = f"{what} is stamped in the future [s]: synchronise the clocks of the machines"
                reports.append(RuleReport("future_stamp", detail, -age, 0.0, limits.future_tolerance_s))
        early = action.observation_stamp - action.stamp
        if early > limits.future_tolerance_s:
            detail = "action is older than the image behind it [s]"
            reports.append(RuleReport("future_stamp", detail, early, 0.0, limits.future_tolerance_s))
        if action.observation_stamp < context.not_before:
            detail = "image behind the action is from before the filter was (re)armed [s]"
            reports.append(
                RuleReport("stale_observation", detail, context.not_before - action.observation_stamp, 0.0, 0.0)
            )
        problem = arm_state_age_problem(context.arm, context.now, limits.arm_state_max_age_s, limits.future_tolerance_s)
        return [*reports, problem] if problem else reports


def arm_state_age_problem(
    state: ArmState | None, now: float, max_age: float, future_tolerance: float
) -> RuleReport | None:
    """Why there is no fresh arm state, None if there is."""
    if state is None:
        return RuleReport("arm_state", "no arm state: is the arm driver running?")
    age = now - state.stamp
    if age > max_age:
        return RuleReport("arm_state", "arm state is too old [s]: is the arm driver running?", age, 0.0, max_age)
    if age < -future_tolerance:
        detail = "arm state is stamped in the future [s]: synchronise the clocks of the machines"
        return RuleReport("arm_state", detail, -age, 0.0, future_tolerance)
    return None
