"""A filter with a clock, an arm that is where it is put, and actions that are on time unless said otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from openvla_ros import geometry
from openvla_ros.control.safety import Decision, SafetyConfig, SafetyFilter
from openvla_ros.types import Action, ArmState, Pose, StampedAction

DOWN = np.array([0.0, np.sqrt(0.5), 0.0, np.sqrt(0.5)])
START = Pose(np.array([0.3, -0.05, 0.2]), DOWN)


def arm_state(stamp: float, pose: Pose = START, **changes: Any) -> ArmState:
    state = ArmState(stamp, pose, np.zeros(3), np.zeros(3), np.zeros(6), np.zeros(6), gripper=1.0)
    return replace(state, **changes)


def action(xyz: Any = (0, 0, 0), rpy: Any = (0, 0, 0), gripper: float = 1.0) -> Action:
    return Action(np.array(xyz, dtype=np.float64), np.array(rpy, dtype=np.float64), gripper)


class Scene:
    """``follow``: the arm reaches every target at once; else it stays where ``pose`` is set."""

    def __init__(self, pose: Pose = START, follow: bool = True, ramp: bool = False, **sections: Any) -> None:
        if not ramp:
            sections.setdefault("ramp_in", {"duration_s": 0.0})
        self.filter = SafetyFilter(SafetyConfig(**sections))
        self.now = 1000.0
        self.pose = pose
        self.follow = follow
        self.sequence = 0
        self.arm: dict[str, Any] = {}
        self.tick()

    def tick(self, dt: float = 0.0, fresh: bool = True) -> Decision:
        self.now += dt
        if fresh:
            self.filter.on_arm_state(replace(arm_state(self.now, self.pose), **self.arm))
        return self.filter.tick(self.now)

    def rearm(self) -> tuple[bool, str]:
        """`reset`, and if that is done, the deliberate act after it."""
        answer = self.filter.reset(self.now)
        if answer[0]:
            assert self.filter.resume(self.now)[0]
        return answer

    def stamped(self, asked: Action, **changes: Any) -> StampedAction:
        self.sequence += 1
        made = StampedAction(asked, self.now - 0.0002, self.now - 0.0001, 0.2, self.sequence, "episode")
        return replace(made, **changes)

    def send(self, asked: Action, dt: float = 0.2, fresh: bool = True, **changes: Any) -> Decision:
        """Time passes, the arm reports, an action arrives."""
        self.tick(dt, fresh)
        return self.give(self.stamped(asked, **changes))

    def give(self, stamped: StampedAction) -> Decision:
        decision = self.filter.on_action(stamped, self.now)
        if self.follow and decision.command is not None:
            self.pose = decision.command.target
        return decision

    def step(self, xyz: Any = (0, 0, 0), rpy: Any = (0, 0, 0), gripper: float = 1.0, **changes: Any) -> Decision:
        return self.send(action(xyz, rpy, gripper), **changes)


def codes(decision: Decision) -> set[str]:
    return {report.rule for report in decision.reports}


def shifted(xyz: Any, pose: Pose = START) -> Pose:
    """``pose`` moved by (3,) [m]."""
    return Pose(pose.position + np.array(xyz), pose.quaternion)


def turned(rotvec: Any, pose: Pose = START) -> Pose:
    """``pose`` turned about base axes by (3,) [rad]."""
    return geometry.moved(pose, np.zeros(3), np.array(rotvec, dtype=np.float64))
