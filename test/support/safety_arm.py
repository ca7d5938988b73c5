"""The filter with the arm rules on, the driver's own motion and kinematics behind it, and a clock. No ROS, no physics:
the joints are where the driver's trajectory says."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from openvla_ros.control.safety import Decision, SafetyConfig, SafetyFilter
from openvla_ros.drive.driver import Driver, DriverConfig
from openvla_ros.robots.arm_model import ArmModel
from openvla_ros.robots.description import RobotDescription, load_robot
from openvla_ros.robots.kinematics import Kinematics
from openvla_ros.types import Action, ArmState, Array, Command, Outcome, StampedAction


@lru_cache
def parts(name: str) -> tuple[RobotDescription, ArmModel, Kinematics]:
    """Robot, the filter's model and the driver's kinematics: compiled once."""
    robot = load_robot(name)
    return robot, ArmModel(robot), Kinematics(robot)


def config(name: str = "wx250s", **sections: Any) -> SafetyConfig:
    """A configuration that fits the robot, without ramp-in."""
    sections.setdefault("ramp_in", {"duration_s": 0.0})
    if name != "wx250s":
        robot, model, _ = parts(name)
        start = model.forward(robot.pose("start"))
        box = {"lower_m": robot.workspace.lower, "upper_m": robot.workspace.upper}
        sections.setdefault("workspace", {**box, "reference_quaternion": tuple(start.quaternion.tolist())})
    return SafetyConfig(**sections)


class ArmScene:
    """``refusals``: what the driver said to commands that it refused."""

    def __init__(self, name: str = "wx250s", q: Array | None = None, **sections: Any) -> None:
        self.robot, self.model, self.kinematics = parts(name)
        self.config = config(name, **sections)
        self.filter = SafetyFilter(self.config, self.model)
        self.driver = Driver(self.kinematics, DriverConfig())
        self.q = self.robot.pose("start") if q is None else np.array(q, dtype=np.float64)
        self.now = 1000.0
        self.sequence = 0
        self.refusals: list[str] = []
        self.tick()

    def tick(self, dt: float = 0.0) -> Decision:
        """Time passes: the arm moves, the driver reports, the filter's timer runs."""
        self.now += dt
        told = self.driver._told(self.now)
        self.q = self.q if told is None else told
        zeros = np.zeros_like(self.q)
        state = ArmState(self.now, self.model.forward(self.q), np.zeros(3), np.zeros(3), self.q, zeros, 1.0)
        self.driver.on_state(state, self.now)
        self.driver.heard_filter(self.now)
        self.filter.on_arm_state(state)
        if self.driver.command is not None and self.driver.outcome is Outcome.REFUSED:
            self.filter.on_refusal(self.driver.command.sequence, self.driver.detail)
        decision = self.filter.tick(self.now)
        self.obey(decision.command)
        return decision

    def step(self, xyz: Any = (0, 0, 0), rpy: Any = (0, 0, 0), dt: float = 0.2, duration: float = 0.2) -> Decision:
        self.tick(dt)
        self.sequence += 1
        asked = Action(np.array(xyz, dtype=np.float64), np.array(rpy, dtype=np.float64), 1.0)
        stamped = StampedAction(asked, self.now - 0.0002, self.now - 0.0001, duration, self.sequence, "episode")
        decision = self.filter.on_action(stamped, self.now)
        self.obey(decision.command)
        return decision

    def obey(self, command: Command | None) -> None:
        if command is None:
            return
        self.driver.on_command(command, 0.0, self.now)
        if self.driver.outcome is Outcome.REFUSED:
            self.refusals.append(self.driver.detail)


def share(decision: Decision) -> float:
    """Of the largest step, how much was passed on: of translation or rotation, whichever is more."""
    if decision.filtered is None:
        return 0.0
    return float(max(abs(decision.filtered.translation).max() / 0.05, abs(decision.filtered.rotation).max() / 0.25))
