"""A driver, an arm that is easy to follow by eye, and a clock: what goes in, and what the controller is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safety_scene import DOWN, arm_state

from openvla_ros.control.safety.course import Course, Step
from openvla_ros.drive.driver import Driver, DriverConfig
from openvla_ros.robots.description import load_robot
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import ArmState, Array, Command, Outcome, Pose

ROS_TIME = 1.7e9  # what the states' stamps count from: another clock than the steady one
LEAD, WINDOW = 0.03, 0.1  # [s] of a path
HOME = np.array([0.3, -0.05, 0.2, 0.0, 0.0, 0.0])
STEP = (0.04, 0.0, 0.0)
FAST, HARD = 0.25, 2.5  # [m/s], [m/s^2]: the limits of the arm


class CartesianArm:
    """Its first three joints are x, y, z, the next two turn the hand, the last one does nothing: easy to follow."""

    def forward(self, q: Array) -> Pose:
        return Pose(q[:3].copy(), DOWN)

    def twist(self, q: Array, qd: Array) -> tuple[Array, Array]:
        return qd[:3], np.array([qd[3], qd[4], 0.0])


def path_of(course: Course, start: float) -> Trajectory:
    times = course.changes(start)
    rest = np.zeros((len(times), 3))
    return Trajectory(
        times,
        np.hstack([course.positions(times), rest]),
        np.hstack([course.velocities(times)[0], rest]),
    )


def straight(start: float, duration: float, begin: Array, end: Array) -> Trajectory:
    """From rest to rest, as a cubic."""
    return Trajectory(np.array([start, start + duration]), np.stack([begin, end]), np.zeros((2, 6)))


class Drive:
    """One arm and the filter's sign of life, both heard every 10 ms unless told otherwise. It does what it is told."""

    def __init__(self, **config: Any) -> None:
        self.robot = load_robot("wx250s")
        self.driver = Driver(self.robot, CartesianArm(), DriverConfig(**config))
        self.now = 50.0
        self.q, self.before = HOME.copy(), HOME.copy()
        self.states = self.filter = self.follows = True
        self.rogue: Array | None = None  # (n,) [rad/s] at which somebody else moves it
        self.stopped: bool | None = None
        self.frozen: float | None = None  # a stamp that every state carries
        self.sequence = 0
        self.sent: list[Trajectory] = []
        self.course: Course | None = None
        self.continues = 0

    def keep(self, sending: Trajectory | None) -> Trajectory | None:
        if sending is None:
            return None
        self.sent.append(sending)
        return sending

    @property
    def told(self) -> Array:
        """(n,) what the controller follows."""
        return self.sent[-1].at(self.now)[0] if self.sent else self.q

    def state(self, q: Array | None = None, stamp: float | None = None) -> ArmState:
        q = self.q if q is None else q
        qd = (self.q - self.before) / 0.01
        stamp = self.now + ROS_TIME if stamp is None else stamp
        linear, angular = CartesianArm().twist(q, qd)
        return replace(
            arm_state(stamp, CartesianArm().forward(q)),
            joint_positions=q.copy(),
            joint_velocities=qd,
            linear_velocity=linear,
            angular_velocity=angular,
        )

    def go(self, seconds: float) -> list[Trajectory]:
        """Time passes. Returns what the driver sent by itself."""
        count = len(self.sent)
        for _ in range(round(seconds / 0.01)):
            self.now += 0.01
            self.before = self.q
            if self.rogue is not None:
                self.q = self.q + 0.01 * self.rogue
            elif self.follows:
                self.q = self.told
            if self.states:
                self.driver.on_state(self.state(stamp=self.frozen), self.now)
            if self.filter:
                self.keep(self.driver.heard_filter(self.now, self.stopped))
            self.keep(self.driver.tick(self.now))
        return self.sent[count:]

    def made(self, step: Any = STEP, seconds: float = 0.2, **changes: Any) -> Command:
        """The command that comes next."""
        self.sequence += 1
        start = self.now + LEAD
        rests = self.course is None
        course = Course(Pose(self.told[:3].copy(), DOWN), WINDOW) if self.course is None else self.course
        course = course.then(Step(np.array(step, dtype=np.float64), np.zeros(3), start, seconds))
        command = Command(
            target=course.target(),
            gripper=1.0,
            duration=course.end - start,
            sequence=self.sequence,
            path=path_of(course, start),
            continues=0 if rests else self.continues,
        )
        self.course, self.continues = course, self.sequence
        return replace(command, **changes)

    def give(self, command: Command, age: float = 0.01) -> Trajectory | None:
        return self.keep(self.driver.on_command(command, age, self.now))

    def move(self, *args: Any, age: float = 0.01, **changes: Any) -> Trajectory | None:
        return self.give(self.made(*args, **changes), age)

    def hold(self, age: float = 0.01) -> Trajectory | None:
        self.course = None
        self.sequence += 1
        command = Command(Pose(self.q[:3], DOWN), 1.0, 0.0, self.sequence, hold=True)
        return self.give(command, age)

    def press(self, pressed: bool = True) -> Trajectory | None:
        self.course = None
        return self.keep(self.driver.press(pressed, self.now))

    def refused(self, age: float = 0.01, **changes: Any) -> str:
        """Why a command is refused, without a motion."""
        before = self.driver.told(self.now)
        told = self.move(age=age, **changes)
        assert told is None or abs(told.last - before.reference).max() < 0.02
        assert self.driver.outcome is Outcome.REFUSED
        self.course = None
        return self.driver.detail


def moving(drive: Drive) -> Drive:
    """In the middle of a motion at full speed."""
    drive.move((0.05, 0, 0), 0.2)
    drive.go(0.2)
    drive.move((0.05, 0, 0), 0.2)
    drive.go(0.05)
    assert drive.sent[-1].at(drive.now)[1][0] == pytest.approx(FAST, rel=0.01)
    return drive


def assert_braked(drive: Drive, stop: Trajectory | None) -> None:
    """Along the path, to rest, and no harder than the arm may."""
    assert stop is not None
    times = np.arange(drive.now, stop.end + 1e-3, 1e-3)
    q, qd = stop.sampled(times)
    assert abs(q[0] - drive.q).max() < 0.005
    assert qd[0, 0] == pytest.approx(FAST, rel=0.02)
    assert not stop.velocities[-1].any()
    assert (np.diff(q[:, 0]) >= -1e-9).all()
    assert q[-1, 0] - q[0, 0] == pytest.approx(FAST**2 / HARD / 2, rel=0.1)
    assert abs(q[:, 1:] - HOME[1:]).max() < 1e-6
    assert abs(np.diff(qd[:-1, 0])).max() / 1e-3 <= 1.06 * HARD


def slowly(told: Trajectory) -> bool:
    speeds = told.sampled(np.arange(told.start, told.end, 1e-3))[1]
    hardest = abs(np.diff(speeds[:, :3], axis=0)).max() / 1e-3
    return bool(abs(speeds).max() <= 0.31 and hardest < HARD / 2 and not told.velocities[[0, -1]].any())
