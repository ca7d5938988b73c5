"""NaN and infinity are refused, everywhere in an action, before anything is clipped: clipping lets NaN through.

The arm holds at once: a policy that says such a thing is out of order, and so may be what it said just before.
"""

from __future__ import annotations

import math

import numpy as np

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Refused
from openvla_ros.types import ArmState, Array, RuleReport, StampedAction

CODE = "not_finite"


class Finite:
    """Refuses at once: no other rule can judge what is not a number."""

    def __init__(self, config: SafetyConfig) -> None:
        pass

    def __call__(self, action: StampedAction, context: Context) -> list[RuleReport]:
        motion = action.action
        if np.shape(motion.translation) != (3,) or np.shape(motion.rotation) != (3,):
            shapes = f"{np.shape(motion.translation)} and {np.shape(motion.rotation)}"
            raise Refused(RuleReport(CODE, f"translation and rotation must be (3,) each, not {shapes}"), hold=True)
        named = (
            *zip(("x", "y", "z"), motion.translation, strict=True),
            *zip(("roll", "pitch", "yaw"), motion.rotation, strict=True),
            ("gripper", motion.gripper),
            ("observation stamp", action.observation_stamp),
            ("stamp", action.stamp),
            ("duration", action.duration),
        )
        wrong = [(name, float(value)) for name, value in named if not math.isfinite(value)]
        if wrong:
            detail = ", ".join(f"{name} is {value}" for name, value in wrong)
            raise Refused(RuleReport(CODE, detail, asked=wrong[0][1]), hold=True)
        return []


def arm_state_problem(state: ArmState) -> str:
    """Why a measured state cannot be believed (a value not finite, no unit quaternion); empty if it can."""
    named: dict[str, Array | float] = {
        "position": state.pose.position,
        "quaternion": state.pose.quaternion,
        "linear velocity": state.linear_velocity,
        "angular velocity": state.angular_velocity,
        "joint positions": state.joint_positions,
        "joint velocities": state.joint_velocities,
        "gripper": state.gripper,
        "stamp": state.stamp,
        "joint efforts": 0.0 if state.joint_efforts is None else state.joint_efforts,
        "wrench": 0.0 if state.wrench is None else state.wrench,
    }
    for name, value in named.items():
        if not np.isfinite(value).all():
            return f"{name} is not finite: {value}"
    if state.pose.position.shape != (3,) or state.pose.quaternion.shape != (4,):
        return f"pose has shapes {state.pose.position.shape} and {state.pose.quaternion.shape}, not (3,) and (4,)"
    norm = float(np.linalg.norm(state.pose.quaternion))
    if not abs(norm - 1) < 1e-3:
        return f"quaternion has length {norm:.4f}, not 1"
    return ""
