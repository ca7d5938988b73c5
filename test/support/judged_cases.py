"""Kinds of trouble for filter, driver and arm: scenarios that assert what must hold of what the arm is told at 1 ms."""

from __future__ import annotations

import itertools
import math
from random import Random
from typing import Any

import numpy as np
from judged_arm import OFFSET, JudgedArm, Wire, config

from openvla_ros.control.safety import State
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Command, Outcome, Pose

SPEED, ACCELERATION = 0.25, 2.5  # [m/s], [m/s^2]
POST = {"name": "post", "lower_m": (0.27, -0.05, 0.0), "upper_m": (0.33, 0.05, 0.30)}


def assert_within(wire: Wire, speed: float = SPEED) -> None:
    assert wire.speed() <= 1.01 * speed
    assert wire.acceleration() <= 1.06 * ACCELERATION
    assert wire.joint_speed() <= 0.95
    assert wire.turning() <= 1.25 * 1.02


def stream(arm: JudgedArm, count: int, step: Any = (0, 0.05, 0)) -> None:
    for _ in range(count):
        arm.act(step)
        arm.run(0.2)


def lost_command(lost: int = 1) -> JudgedArm:
    arm, number = JudgedArm(), itertools.count(1)

    def carry(command: Command, now: float) -> list[tuple[Command, float]]:
        if command.hold:
            return [(command, 0.0)]
        return [] if 8 <= next(number) < 8 + lost else [(command, 0.0)]

    arm.carry = carry
    stream(arm, 14)
    stream(arm, 3, (0, -0.05, 0))
    assert_within(arm.wire)
    return arm


def late_commands(delay: float = 0.05) -> None:
    arm = JudgedArm()
    arm.carry = lambda command, now: [(command, 0.0 if command.sequence % 4 else delay)]
    stream(arm, 13)
    assert_within(arm.wire)


def late_and_slow() -> None:
    arm = JudgedArm(safety=config(motion={"max_speed_m_s": 0.05}))
    arm.carry = lambda command, now: [(command, 0.0 if command.sequence % 2 else 0.09)]
    for _ in range(15):
        arm.act((0, 0.05, 0), duration=0.5)
        arm.run(0.1)
    assert_within(arm.wire, speed=0.051)


def reordered(seed: int = 0) -> None:
    rng, arm = Random(seed), JudgedArm()
    arm.carry = lambda command, now: [(command, rng.choice([0.0, 0.0, 0.1])) for _ in range(rng.choice([1, 1, 2]))]
    for k in range(30):
        arm.act((0, 0.03 if k % 8 < 4 else -0.03, 0))
        arm.run(rng.choice([0.03, 0.05, 0.2]))
    arm.run(0.5)
    assert_within(arm.wire)


def hold_overtakes_the_first_move() -> None:
    """A MOVE that begins from rest and comes after the HOLD that followed it."""
    arm = JudgedArm()
    arm.carry = lambda command, now: [(command, 0.0 if command.hold else 0.05)]
    arm.act((0, 0.05, 0))
    arm._pass_on(arm.filter.stop("somebody", arm.now))
    arm.driver.heard_filter(arm.now + OFFSET, False)  # its status is slower than its commands
    arm.filter_alive = False
    arm.run(0.1)
    assert arm.driver.outcome is Outcome.HELD
    assert arm.wire.speed() == 0.0


def round_the_corner(hz: int, duration: float, lag: float) -> None:
    arm = JudgedArm(safety=config(keep_out=[POST]), lag=lag)
    for goal in ([0.3, -0.055, 0.2], [0.335, -0.055, 0.2], [0.335, 0.055, 0.2]):
        for _ in range(2 * hz):
            accepted = arm.filter._accepted
            way = goal - (accepted.target.position if accepted else arm.model.forward(arm.q).position)
            distance = float(np.linalg.norm(way))
            if distance < 0.002:
                break
            arm.act(way / distance * min(distance, 0.05), duration=duration)
            arm.run(1 / hz)
    assert arm.wire.depth(POST) < 0
    assert arm.wire.depth(POST) > -0.02
    assert_within(arm.wire)


def pushed_aside(off: float) -> JudgedArm:
    arm = JudgedArm()
    stream(arm, 6, (0, 0.02, 0))
    arm.blocked = True
    for _ in range(20):  # by hand, at a pace that an arm can have
        at = arm.kinematics.forward(arm.q)
        arm.q = arm.kinematics.solve(Pose(at.position - [0, off / 20, 0], at.quaternion), arm.q)
        arm.run(0.01)
    mark = len(arm.told)
    arm.run(1.5)
    arm.act((0, 0, 0))
    arm.blocked = False
    arm.run(1.0)
    arm.act((0, 0, 0))
    arm.run(1.0)
    assert_within(arm.since(mark), speed=0.15)
    return arm


def driver_waits_for_a_silent_filter() -> None:
    arm = JudgedArm()
    stream(arm, 3)
    arm.act((0, 0.05, 0), duration=2.0)
    arm.run(0.1)
    arm.filter_alive = False
    mark = len(arm.told)
    arm.run(1.5)
    assert arm.driver.outcome is Outcome.HELD
    assert_within(arm.wire)
    assert arm.since(mark + 350).speed() == 0.0


def joint_states_end() -> None:
    arm = JudgedArm()
    stream(arm, 3)
    arm.act((0, 0.05, 0), duration=2.0)
    arm.run(0.1)
    arm.measure = lambda q: None
    arm.carry = lambda command, now: []
    mark = len(arm.told)
    arm.run(1.0)
    assert_within(arm.wire)
    assert arm.since(mark + 350).speed() == 0.0


FALSE = {
    "zeros": lambda q: np.zeros(6),
    "-pi": lambda q: np.full(6, -math.pi),
    "off": lambda q: q + 0.5,
    "1e6": lambda q: np.full(6, 1e6),
}


def glitch_before_a_stop(kind: str, how: str) -> None:
    arm = JudgedArm()
    stream(arm, 6, (0, 0.03, 0))
    arm.act((0, 0.03, 0))
    arm.run(0.08)
    before = arm.wire.p[-1]
    mark = len(arm.told)
    arm.measure = FALSE[kind]
    arm.run(0.01)
    arm.measure = lambda q: q
    if how == "press":
        arm.press(True)
    else:
        arm._pass_on(arm.filter.stop("somebody", arm.now))
    arm.run(0.5)
    wire = arm.since(mark)
    assert_within(wire)
    assert np.linalg.norm(wire.p[-1] - before) < 0.02
    assert arm.since(mark + 200).speed() == 0.0


def stop_is_kept() -> None:
    """By the driver too: a filter that is stopped, and a command that comes nevertheless."""
    arm = JudgedArm()
    stream(arm, 4)
    arm._pass_on(arm.filter.stop("somebody", arm.now))
    arm.run(0.4)
    assert foreign_path(arm) is Outcome.REFUSED


def pressed_for_the_driver() -> None:
    arm = JudgedArm()
    stream(arm, 4)
    arm.press(True, filter_too=False)
    arm.run(0.4)
    mark = len(arm.told)
    stream(arm, 4)
    assert arm.since(mark).speed() == 0.0


def repeated_press() -> None:
    arm = JudgedArm()
    stream(arm, 4)
    mark = len(arm.told)
    for _ in range(30):
        arm.press(True)
        arm.run(0.01)
    wire = arm.since(mark)
    assert_within(wire)
    assert np.linalg.norm(wire.p[-1] - wire.p[0]) < 0.02
    assert arm.since(mark + 150).speed() == 0.0


def blocked_arm(how: str = "timeout") -> None:
    arm = JudgedArm()
    arm.blocked = True
    stream(arm, 5, (0, 0.03, 0))
    if how == "stop":
        arm.press(True)
    wound_up = float(np.linalg.norm(arm.wire.p[-1] - arm.model.forward(arm.q).position))
    mark = len(arm.told)
    arm.run(6.0)
    assert wound_up > 0.05
    assert abs(arm.told[-1] - arm.q).max() < 1e-6
    assert_within(arm.since(mark), speed=0.15)
    assert arm.since(mark).joint_speed() < 0.15


def far_away() -> None:
    """An arm that does not follow any more, and a driver that hears of it only by what it measures."""
    arm = JudgedArm()
    stream(arm, 2, (0, 0.02, 0))
    arm.blocked = True
    arm.driver._let_go = lambda now: None  # type: ignore[method-assign]
    for _ in range(25):
        arm.q = arm.q - np.eye(6)[0] * 0.015
        arm.run(0.01)
    command = arm.commands[-1]
    assert command.path is not None
    arm.filter_alive = False
    path = Trajectory.at_rest(arm.controller.last, arm.now + OFFSET).followed_by(
        Trajectory(arm.now + OFFSET + np.array([0.03, 0.5]), np.stack([arm.controller.last] * 2), np.zeros((2, 6))),
        arm.now + OFFSET,
    )
    arm.driver.on_command(Command(command.target, 1.0, 0.5, command.sequence + 5, path=path), 0.0, arm.now + OFFSET)
    assert arm.driver.outcome is Outcome.REFUSED


def displaced() -> None:
    arm = JudgedArm()
    stream(arm, 4)
    arm.run(1.0)
    arm.q = arm.q + np.eye(6)[0] * 0.6
    arm.blocked = True
    arm.run(0.6)
    assert arm.filter.state is State.STOPPED
    mark = len(arm.told)
    arm.act((0, 0.05, 0))
    arm.press(True)
    arm.press(False)
    arm.run(1.0)
    assert arm.since(mark).speed() == 0.0
    arm.controller = Trajectory.at_rest(arm.q, arm.now)
    arm.blocked = False
    assert arm.reset()[0]
    arm.run(0.1)
    assert arm.filter.resume(arm.now)[0]
    mark = len(arm.told)
    stream(arm, 4)
    assert_within(arm.since(mark))
    assert arm.since(mark).speed() > 0.05


def own_limits() -> None:
    """A filter that was given four times the speed."""
    arm = JudgedArm(safety=config(motion={"max_speed_m_s": 1.0, "max_step_m": 0.2}, tracking={"max_error_m": 0.3}))
    stream(arm, 6, (0, 0.15, 0))
    assert_within(arm.wire)


def foreign_path(arm: JudgedArm, **changes: Any) -> Outcome:
    """A path that nobody judged: what comes of it. Refused, it moves nothing."""
    now, q = arm.now + OFFSET, arm.controller.at(arm.now)[0]
    begin, end, seconds = changes.get("begin", 0.0), changes.get("end", 0.02), changes.get("seconds", 0.5)
    start = now + changes.get("start", 0.03)
    speeds = np.zeros((2, 6))
    speeds[0] = changes.get("speed", 0.0)
    path = Trajectory(np.array([start, start + seconds]), np.stack([q + begin, q + end]), speeds)
    command = Command(arm.commands[-1].target, 1.0, seconds, 90, path=path, continues=changes.get("continues", 0))
    mark, end_of_told = len(arm.told), arm.controller.last
    arm._send(arm.driver.on_command(command, changes.get("age", 0.0), now))
    outcome = arm.driver.outcome
    arm.run(0.15)
    if outcome is Outcome.REFUSED:
        assert arm.since(mark).speed() == 0.0 or abs(arm.controller.last - end_of_told).max() < 0.05
    return outcome


def a_foreign_path(**changes: Any) -> Outcome:
    arm = JudgedArm()
    arm.act((0, 0.01, 0))
    arm.run(1.0)
    arm.filter_alive = False
    mark = len(arm.told)
    outcome = foreign_path(arm, **changes)
    assert outcome is Outcome.EXECUTING or arm.since(mark).speed() == 0.0
    return outcome


FOREIGN: dict[str, dict[str, Any]] = {
    "gap": {"continues": 17},
    "elsewhere": {"begin": 0.03, "end": -0.05, "seconds": 2.0},
    "in motion": {"speed": 0.4 * np.eye(6)[5]},
    "hard": {"end": 0.01 * np.eye(6)[0], "seconds": 0.05},
    "late": {"age": 0.3},
    "early": {"age": -0.3},
    "far ahead": {"start": 2.0},
    "range": {"end": 3.6 * np.eye(6)[5], "seconds": 14.0},
    "speed": {"end": 0.9 * np.eye(6)[0], "seconds": 1.0},
}


def slow_joints() -> None:
    arm = JudgedArm()
    joints = tuple(joint.model_copy(update={"max_velocity": 0.1}) for joint in arm.robot.joints)
    arm.robot = arm.robot.model_copy(update={"joints": joints})
    arm.new_driver()
    arm.run(0.1)
    stream(arm, 6)
    assert arm.wire.joint_speed() <= 1.06


def contradicting_publishers() -> None:
    arm = JudgedArm()
    stream(arm, 4)
    arm.press(True)
    arm.run(0.3)
    mark, turn = len(arm.told), itertools.count()
    arm.measure = lambda q: q if next(turn) % 9 < 2 else q + 0.3
    arm.run(3.0)
    assert arm.since(mark).speed() == 0.0


def driver_starts_in_mid_motion() -> None:
    arm = JudgedArm()
    stream(arm, 3)
    arm.act((0, 0.05, 0), duration=0.5)
    arm.run(0.1)
    arm.new_driver()
    arm.filter_alive = False
    arm.run(0.05)
    told = arm.driver.told(arm.now + OFFSET)
    assert told is not None
    assert not told.at_rest
    assert foreign_path(arm) is Outcome.REFUSED


def rogue() -> None:
    arm = JudgedArm()
    stream(arm, 2)
    arm._pass_on(arm.filter.stop("somebody", arm.now))
    arm.run(1.5)
    arm.controller = Trajectory(np.array([arm.now, arm.now + 1.0]), np.stack([arm.q, arm.q + 0.15]), np.zeros((2, 6)))
    arm.run(1.2)
    assert "nobody commanded" in arm.driver.unexpected
    assert "unexpected_motion" in {report.rule for report in arm.decisions[-1].reports}


def driver_ends() -> None:
    arm = JudgedArm()
    stream(arm, 2)
    arm.act((0, 0.05, 0), duration=2.0)
    arm.run(0.1)
    mark = len(arm.told)
    arm._send(arm.driver.end(arm.now + OFFSET))
    arm.driver_alive = False
    arm.run(0.5)
    assert_within(arm.since(mark))
    assert arm.since(mark + 150).speed() == 0.0


def lost_hold() -> None:
    arm = JudgedArm()
    stream(arm, 2)
    arm.act((0, 0.05, 0), duration=2.0)
    arm.run(0.1)
    arm.carry = lambda command, now: []
    arm._pass_on(arm.filter.stop("somebody", arm.now))
    mark = len(arm.told)
    arm.run(0.5)
    assert_within(arm.since(mark))
    assert arm.since(mark + 150).speed() == 0.0
