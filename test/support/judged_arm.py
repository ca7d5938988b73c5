"""Filter, driver and an arm that follows what it is told, late, blocked or displaced: deterministic, without ROS.

What counts is ``wire``: what the arm is told over time, as its controller interpolates it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from openvla_ros.control.safety import Decision, SafetyConfig, SafetyFilter, State
from openvla_ros.drive.driver import Driver, DriverConfig
from openvla_ros.robots.arm_model import ArmModel
from openvla_ros.robots.description import RobotDescription, load_robot
from openvla_ros.robots.kinematics import Kinematics
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Action, ArmState, Array, Command, StampedAction

TICK = 0.01  # [s] of joint states and timers
OFFSET = 17.3  # [s] of the driver's steady clock against that of the stamps


@lru_cache
def parts(name: str) -> tuple[RobotDescription, ArmModel, Kinematics]:
    """Robot, the filter's model and the driver's kinematics: compiled once."""
    robot = load_robot(name)
    return robot, ArmModel(robot), Kinematics(robot)


def config(name: str = "wx250s", **sections: Any) -> SafetyConfig:
    """A configuration that fits the robot."""
    if name != "wx250s":
        robot, model, _ = parts(name)
        start = model.forward(robot.pose("start"))
        box = {"lower_m": robot.workspace.lower, "upper_m": robot.workspace.upper}
        sections.setdefault("workspace", {**box, "reference_quaternion": tuple(start.quaternion.tolist())})
    return SafetyConfig(**sections)


@dataclass
class Late:
    """A command on its way to the driver."""

    due: float
    command: Command
    decided: float


class JudgedArm:
    """``lag``: time constant [s] of the measured joints behind what they are told. Time starts at 1000 s.

    ``carry``: which commands, and when, the driver gets: (command, now) -> [(command, delay [s])]; all at once by
    default. ``measure``: what becomes of a measurement on its way; None: it is lost.
    """

    def __init__(
        self, name: str = "wx250s", safety: SafetyConfig | None = None, lag: float = 0.0, q: Array | None = None
    ) -> None:
        self.robot, self.model, self.kinematics = parts(name)
        self.safety = safety or config(name)
        self.now, self.lag, self.ticks = 1000.0, lag, 0
        self.q = self.robot.pose("start") if q is None else q
        self.before = self.q.copy()
        self.controller = Trajectory.at_rest(self.q, self.now)
        self.blocked = False
        self.gripper = self.gripper_target = 1.0
        self.sequence = 0
        self.carry: Callable[[Command, float], list[tuple[Command, float]]] = lambda command, now: [(command, 0.0)]
        self.measure: Callable[[Array], Array | None] = lambda q: q
        self.filter_alive = self.driver_alive = True
        self.under_way: list[Late] = []
        self.times: list[float] = []
        self.told: list[Array] = []  # at 1 ms
        self.measured: list[Array] = []
        self.decisions: list[Decision] = []
        self.commands: list[Command] = []
        self.sent: list[tuple[str, float, float]] = []  # to the controller: what for, from and until when
        self.new_driver()
        self.new_filter()
        self.run(0.05)

    # ---- parts that end and come back

    def new_filter(self) -> None:
        self.filter = SafetyFilter(self.safety, self.model)

    def new_driver(self) -> None:
        self.driver = Driver(self.robot, self.kinematics, DriverConfig())

    # ---- time

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK)):
            self._tick()

    def _tick(self) -> None:
        begin = self.now
        samples = begin + 0.001 * np.arange(1, 11)
        self.times += samples.tolist()
        self.told += list(self.controller.sampled(samples)[0])
        self.now = round(begin + TICK, 9)
        self.ticks += 1
        self.before = self.q
        if not self.blocked:
            goal = self.controller.at(self.now)[0]
            self.q = goal if self.lag == 0 else self.q + (1 - math.exp(-TICK / self.lag)) * (goal - self.q)
        self.gripper += float(np.clip(self.gripper_target - self.gripper, -0.05, 0.05))
        self.measured.append(self.q)
        self._deliver()
        self._measure()
        if self.driver_alive and self.ticks % 2 == 0:
            kind = "let go" if self.controller.rests(self.now) else "held"
            self._send(self.driver.tick(self.now + OFFSET), kind)
        if self.filter_alive:
            decision = self._pass_on(self.filter.tick(self.now))
            if self.driver_alive:
                self._send(self.driver.heard_filter(self.now + OFFSET, decision.state is State.STOPPED))

    def _measure(self) -> None:
        q = self.measure(self.q.copy())
        if q is None or not self.driver_alive:
            return
        state = self.state(q)
        if self.driver.on_state(state, self.now + OFFSET) and self.filter_alive:
            self.filter.on_arm_state(replace(state, driver=self.driver.told(self.now + OFFSET)))

    def state(self, q: Array) -> ArmState:
        speed = (self.q - self.before) / TICK
        linear, angular = self.kinematics.twist(q, speed)
        return ArmState(self.now, self.kinematics.forward(q), linear, angular, q, speed, self.gripper, np.zeros(len(q)))

    def _send(self, told: Trajectory | None, kind: str = "told") -> None:
        motion = self.driver.gripper.tick(self.now + OFFSET)
        if motion is not None:
            self.gripper_target = motion.opening
        if told is None:
            return
        told = told.shifted(-OFFSET)
        if self.sent and self.sent[-1][0] == "let go" and not self.controller.rests(self.now):
            kind = "let go"  # and stopped on the way
        self.sent.append((kind, self.now, told.end))
        # As the controller does it: from its own state at the moment, through the points that are still to come.
        q, qd = self.controller.at(self.now)
        later = told.times > self.now + 1e-9
        assert later.any(), "a controller rejects what is over"
        times = np.concatenate([[self.now], told.times[later]])
        speeds = told.velocities[later].copy()
        speeds[-1] = 0.0
        self.controller = Trajectory(times, np.vstack([q, told.positions[later]]), np.vstack([qd, speeds]))

    # ---- what is said

    def act(self, xyz: Any = (0, 0, 0), rpy: Any = (0, 0, 0), duration: float = 0.2, **changes: Any) -> Decision:
        """An action, on time unless said otherwise."""
        self.sequence += 1
        asked = Action(np.array(xyz, dtype=np.float64), np.array(rpy, dtype=np.float64), 1.0)
        made = StampedAction(asked, self.now - 0.002, self.now - 0.001, duration, self.sequence, "episode")
        return self._pass_on(self.filter.on_action(replace(made, **changes), self.now))

    def press(self, pressed: bool, filter_too: bool = True) -> None:
        """The stop button, as each part hears it."""
        if self.driver_alive:
            self._send(self.driver.press(pressed, self.now + OFFSET))
        if filter_too and self.filter_alive:
            self._pass_on(self.filter.press(pressed, self.now))

    def reset(self) -> tuple[bool, str]:
        answer = self.filter.reset(self.now)
        self._pass_on(self.filter.tick(self.now))
        return answer

    def _pass_on(self, decision: Decision) -> Decision:
        self.decisions.append(decision)
        if decision.command is not None:
            self.commands.append(decision.command)
            for command, delay in self.carry(decision.command, self.now):
                self.under_way.append(Late(self.now + delay, command, self.now))
            self._deliver()
        return decision

    def _deliver(self) -> None:
        due = [late for late in self.under_way if late.due <= self.now + 1e-9]
        self.under_way = [late for late in self.under_way if late.due > self.now + 1e-9]
        for late in sorted(due, key=lambda late: late.due):
            if self.driver_alive:
                command = late.command
                if command.path is not None:
                    command = replace(command, path=command.path.shifted(OFFSET))
                age = self.now - late.decided + 0.001
                self._send(self.driver.on_command(command, age, self.now + OFFSET))

    # ---- the wire

    @property
    def wire(self) -> Wire:
        return Wire(self, 0)

    def since(self, mark: int) -> Wire:
        """What the arm was told from a mark (``len(self.told)``) on."""
        return Wire(self, mark)


class Wire:
    """What the arm was told at 1 ms: joints q (m, n) and end effector p (m, 3)."""

    def __init__(self, arm: JudgedArm, mark: int) -> None:
        self.arm = arm
        self.q = np.array(arm.told[mark:])
        poses = [arm.model.forward(q) for q in self.q]
        self.p = np.array([pose.position for pose in poses])
        self.poses = poses

    def speed(self) -> float:
        """[m/s] at most."""
        return float(np.linalg.norm(np.diff(self.p, axis=0), axis=1).max(initial=0.0) / 0.001)

    def acceleration(self) -> float:
        """[m/s^2] at most."""
        return float(np.linalg.norm(np.diff(self.p, n=2, axis=0), axis=1).max(initial=0.0) / 1e-6)

    def joint_speed(self) -> float:
        """Of any joint, as a share of what it can do."""
        return float((abs(np.diff(self.q, axis=0)) / 0.001 / self.arm.robot.max_velocity).max(initial=0.0))

    def turning(self) -> float:
        """[rad/s] at most."""
        turns = [a.motion_to(b)[1] for a, b in zip(self.poses[:-10:10], self.poses[10::10], strict=False)]
        return float(max((np.linalg.norm(turn) for turn in turns), default=0.0) / 0.01)

    def depth(self, box: dict[str, Any]) -> float:
        """[m] that the end effector is deepest in a box; negative: outside."""
        inside = np.minimum(self.p - np.array(box["lower_m"]), np.array(box["upper_m"]) - self.p).min(axis=1)
        return float(inside.max())
