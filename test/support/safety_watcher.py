"""Random configurations and events for the safety filter, and a watcher that checks every decision by its own books."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from safety_scene import START, arm_state
from scipy.spatial.transform import Rotation

from openvla_ros.control.safety import Decision, SafetyConfig, SafetyFilter, State, Verdict
from openvla_ros.control.safety.course import Course
from openvla_ros.types import Action, ArmState, Command, Pose, StampedAction

EPS = 1e-6
SAMPLES = 150  # of a course
ODD = [0.0, -0.0, 5e-324, 1e-310, 0.05, -0.25, 0.9, 3.1, 1e3, 1e308, -1e308, math.nan, math.inf, -math.inf]
ODD_STEPS = [0.0, 0.001, 0.001, 1.0, 4.0, 4.0, -0.01, -0.04, -0.5, -100.0]  # of the clock [s]
KINDS = ["action"] * 30 + ["tick", "tick", "stop", "press"] + ["release"] * 5 + ["reset"] * 10
ARMS = ["follows"] * 12 + ["blocked"] * 4 + ["drifts"] * 2 + ["pushed", "broken", "old", "missing"]


def random_event(rng: Random) -> tuple[Any, ...]:
    """(kind, time step, what the arm does, seven numbers for the action, its ages and duration, jump in sequence,
    whether the policy says that it sees)."""
    step = rng.choice([0.2] * 8 + [rng.uniform(0.0, 0.4)] * 3 + [rng.choice(ODD_STEPS)])
    size = rng.choice([0.002, 0.02, 0.12, 0.12, 0.12, 0.5])
    values = [*(rng.uniform(-size, size) for _ in range(6)), rng.uniform(-0.1, 1.1)]
    if size == 0.5 and rng.random() < 0.5:
        values = [rng.choice([value, rng.choice(ODD)]) for value in values]
    times = (0.001, 0.002, 0.2)
    if rng.random() < 0.16:
        ends = ((-0.1, 0.4), (-0.1, 1.5), (-0.1, 3.0))
        times = tuple(rng.choice([rng.uniform(*end), rng.uniform(*end), rng.choice(ODD)]) for end in ends)
    sees = rng.random() < 0.7
    return rng.choice(KINDS), step, rng.choice(ARMS), values, times, rng.choice([1] * 20 + [0, -3, 10**18]), sees


def random_config(rng: Random) -> SafetyConfig:
    """Any limits, in a box around the start: wide, or so narrow that every step meets a wall, sometimes beside it."""

    def log(low: float, high: float) -> float:
        return min(high, max(low, math.exp(rng.uniform(math.log(low), math.log(high)))))

    step, turn = log(0.005, 0.2), log(0.02, 0.8)
    around = [(rng.choice([log(0.01, 0.5), log(0.01, 0.5), -0.005]), log(0.01, 0.5)) for _ in range(3)]
    half = min(log(0.005, 0.05), *(0.4 * (low + high) for low, high in around))
    post = START.position + [rng.uniform(-2.0, 2.0) * half for _ in range(3)]
    return SafetyConfig(
        ramp_in={"duration_s": rng.choice([0.0, 0.0, 1.0])},
        motion={
            "max_step_m": step,
            "max_step_rad": turn,
            "max_speed_m_s": log(0.02, 1.7),
            "max_speed_rad_s": log(0.1, 3.0),
            "max_acceleration_m_s2": log(0.1, 13.0),
            "max_acceleration_rad_s2": log(0.5, 60.0),
        },
        tracking={"max_error_m": step * rng.uniform(1.0, 2.5), "max_error_rad": turn * rng.uniform(1.0, 1.8)},
        workspace={
            "lower_m": tuple(p - low for p, (low, _) in zip(START.position, around, strict=True)),
            "upper_m": tuple(p + high for p, (_, high) in zip(START.position, around, strict=True)),
            "rotation_lower_rad": tuple(-log(0.05, 1.2) for _ in range(3)),
            "rotation_upper_rad": tuple(log(0.05, 1.2) for _ in range(3)),
        },
        keep_out=[{"name": "post", "lower_m": tuple(post - half), "upper_m": tuple(post + half)}] * rng.randint(0, 1),
        gripper=rng.choice([{}, {"min": 0.2, "max": 0.8, "max_rate_per_s": 2.0}]),
        duration={"min_s": log(0.01, 0.2), "max_s": log(0.3, 5.0)},
        watchdog={"silence_s": log(0.1, 3.0)},
        camera={"timeout_s": rng.choice([None, None, 0.1, 0.3])},
    )


@dataclass
class Watcher:
    """Drives a filter with events and checks every decision by its own bookkeeping.

    ``twin``: a second filter that gets the same. ``seen``: how often what happened, so that nobody tests nothing.
    """

    config: SafetyConfig

    def __post_init__(self) -> None:
        self.filter, self.twin = SafetyFilter(self.config), SafetyFilter(self.config)
        self.seen: Counter[str] = Counter()
        self.now = self.clock = 1000.0  # the time that is told, and what the filter makes of it
        self.both("tick", self.now)
        self.sequence = 0
        self.camera = -math.inf  # when the policy last said that it sees
        self.latched = False
        self.pressed = False
        self.measured: Pose | None = None
        self.stamp = -math.inf  # of what is measured
        self.arm_pose = START
        self.last: tuple[Command, float, Course] | None = None  # command, when, and all that is under way

    def run(self, rng: Random, events: int) -> None:
        for _ in range(events):
            self.one(*random_event(rng))

    def both(self, name: str, *arguments: Any) -> Any:
        """The filter's answer, and its twin's the same."""
        answer, again = getattr(self.filter, name)(*arguments), getattr(self.twin, name)(*arguments)
        assert pickle.dumps(answer) == pickle.dumps(again), "the same input gives the same output"
        return answer

    def one(self, kind: str, step: float, arm: str, values: list[float], times: Any, jump: int, sees: bool) -> None:
        self.seen[kind] += 1
        self.seen["clock backwards"] += step < 0
        self.seen["clock equal"] += step == 0
        self.now += step
        if sees:
            self.camera = self.now
            self.both("on_observation", self.now)
        if kind != "reset" or self.latched:  # with nothing to reset, the filter does not even look at the time
            if self.clock - self.now > self.config.clock.backwards_tolerance_s:
                self.latched, self.clock, self.camera, self.stamp = True, self.now, -math.inf, -math.inf
            self.clock = max(self.clock, self.now)
        self.move_arm(arm, values)
        if kind == "reset":
            self.reset()
            return
        raw = None
        if kind == "action":
            self.sequence += jump
            stamp, observed, duration = times
            raw = StampedAction(
                Action.from_array(np.array(values)), self.now - observed, self.now - stamp, duration, self.sequence
            )
            decision = self.both("on_action", raw, self.now)
        elif kind == "tick":
            decision = self.both("tick", self.now)
        elif kind == "stop":
            self.latched = True
            decision = self.both("stop", "test", self.now)
            assert decision.command is not None, "a stop is told at once"
        else:
            self.pressed = kind == "press"
            self.latched |= self.pressed
            decision = self.both("press", self.pressed, self.now)
        self.check(decision, raw)

    def move_arm(self, arm: str, values: list[float]) -> None:
        offset = np.nan_to_num(np.array(values[:3]), posinf=0.0, neginf=0.0).clip(-0.1, 0.1)
        if arm == "follows" and self.last is not None:
            self.arm_pose = self.last[0].target
        elif arm == "drifts":
            self.arm_pose = Pose(self.arm_pose.position + 0.1 * offset, self.arm_pose.quaternion)
        elif arm == "pushed":
            self.arm_pose = self.arm_pose.moved(2 * offset, 3 * offset)
        state: ArmState | None = arm_state(self.now, self.arm_pose)
        if arm == "broken":
            state = arm_state(self.now, Pose(np.array([0.3, math.nan, 0.2]), self.arm_pose.quaternion))
        elif arm == "old":
            state = arm_state(self.now - 0.5, self.arm_pose)
        elif arm == "missing":
            state = None
        if state is not None:
            self.both("on_arm_state", state)
            if arm != "broken" and state.stamp >= self.stamp:  # an older one replaces nothing
                self.measured, self.stamp = self.arm_pose, state.stamp

    def reset(self) -> None:
        was_stopped = self.filter.state is State.STOPPED
        done, _ = self.both("reset", self.now)
        assert not (was_stopped and done and self.pressed), "no reset while pressed"
        if done and was_stopped:
            self.latched, self.last = False, None
            self.both("resume", self.now)
            self.seen["re-armed"] += 1

    def check(self, decision: Decision, action: StampedAction | None) -> None:
        assert (decision.state is State.STOPPED) == self.latched, "latched by a stop, until a reset"
        assert not any(report.rule == "unsettled" for report in decision.reports), "limits that agree"
        command = decision.command
        if command is not None:
            numbers = (*command.target.position, *command.target.quaternion, command.gripper, command.duration)
            assert np.isfinite(numbers).all(), "finite commands"
            assert abs(np.linalg.norm(command.target.quaternion) - 1) < 1e-9, "a rotation"
        if command is None or command.hold:
            assert decision.verdict in (Verdict.NO_ACTION, Verdict.REFUSED), "no command, nothing accepted"
            if command is not None or decision.state is State.WAITING:
                self.last = None
            return
        assert action is not None, "nothing moves unasked"
        assert not self.latched, "nothing moves while latched"
        self.check_move(decision, command, action)

    def check_move(self, decision: Decision, command: Command, action: StampedAction) -> None:
        config, asked, passed = self.config, decision.raw, decision.filtered
        assert asked is not None
        assert passed is not None
        assert self.measured is not None
        assert np.isfinite(asked.to_array()).all(), "finite actions"
        assert 0 - 0.06 <= self.clock - action.stamp <= config.freshness.action_max_age_s + EPS, "fresh actions"
        age = self.clock - action.observation_stamp
        assert 0 - 0.06 <= age <= config.freshness.observation_max_age_s + EPS, "fresh images"

        anchor = self.measured
        if self.last is not None:
            assert self.clock - self.last[1] >= config.rate.min_interval_s, "rate"
            anchor = self.last[0].target
        step, turn = anchor.motion_to(command.target)
        assert np.linalg.norm(step) <= config.motion.max_step_m + EPS, "step"
        assert np.linalg.norm(turn) <= config.motion.max_step_rad + EPS, "step"
        self.check_direction(decision, asked, step, turn)
        self.check_place(anchor, command.target)
        assert config.camera.timeout_s is None or self.clock - self.camera <= config.camera.timeout_s, "camera"
        course = self.filter._accepted.course
        self.check_course(anchor, course)
        longest = max(config.duration.max_s, 0.0 if self.last is None else self.last[2].end - self.clock)
        assert config.duration.min_s <= course.steps[-1].duration <= longest + EPS, "duration"
        assert config.gripper.min <= command.gripper <= config.gripper.max, "gripper"
        if decision.verdict is Verdict.ACCEPTED:
            assert passed is asked, "accepted is unchanged"
            assert not any(report.rule not in ("freeze", "arm_state") for report in decision.reports), "all told"
        self.last = (command, self.clock, course)
        self.seen["moved"] += 1
        self.seen["narrowed"] += decision.verdict is Verdict.LIMITED

    def check_course(self, anchor: Pose, course: Course) -> None:
        """What is commanded over time, from finite differences, whose means no instant's limit may exceed."""
        config, begin = self.config, self.clock + self.config.motion.lead_s
        times = np.linspace(begin, course.end, SAMPLES)
        dt, points = times[1] - times[0], course.positions(times)
        rotations = Rotation.from_quat(course.quaternions(times))
        velocities = np.diff(points, axis=0) / dt
        turning = (rotations[1:] * rotations[:-1].inv()).as_rotvec() / dt
        limits = config.motion
        assert np.linalg.norm(velocities, axis=1).max() <= limits.max_speed_m_s * (1 + EPS) + EPS, "speed"
        assert np.linalg.norm(turning, axis=1).max() <= limits.max_speed_rad_s * 1.02 + EPS, "speed"
        harder = np.linalg.norm(np.diff(velocities, axis=0), axis=1).max() / dt
        assert harder <= limits.max_acceleration_m_s2 * (1 + 1e-4) + 1e-6 / dt, "acceleration"
        harder = np.linalg.norm(np.diff(turning, axis=0), axis=1).max() / dt
        assert harder <= limits.max_acceleration_rad_s2 * 1.05 + 1e-6 / dt, "acceleration"
        before = anchor.position if self.last is None else self.last[2].positions(np.array([begin]))[0]
        assert np.allclose(points[0], before, atol=1e-9), "a course goes on from the one before"
        for side, low, high in zip(points.T, config.workspace.lower_m, config.workspace.upper_m, strict=True):
            assert min(low, side[0]) - EPS <= side.min() <= side.max() <= max(high, side[0]) + EPS, "workspace"
        for box in config.keep_out:
            depths = np.minimum(points - box.lower_m, np.array(box.upper_m) - points).min(axis=1)
            # From inside: out, but for what the depth rises between two points that are looked at.
            assert depths.max() <= (depths[0] + 1e-3 if depths[0] > 0 else EPS), "keep out"

    def check_direction(self, decision: Decision, asked: Action, step: np.ndarray, turn: np.ndarray) -> None:
        """Scaled, never turned; at a wall only components are shortened."""
        wanted = Rotation.from_euler("xyz", asked.rotation).as_rotvec()
        assert np.linalg.norm(np.cross(wanted, turn)) <= 1e-7, "direction"
        assert wanted @ turn >= -1e-9, "direction"
        if any(r.rule == "workspace" and "clipped" in r.detail for r in decision.reports):
            assert (step * asked.translation >= -1e-9).all(), "direction"
            assert (np.abs(step) <= np.abs(asked.translation) + 1e-9).all(), "direction"
        else:
            assert np.linalg.norm(np.cross(asked.translation, step)) <= 1e-7, "direction"
            assert asked.translation @ step >= -1e-9, "direction"

    def check_place(self, anchor: Pose, target: Pose) -> None:
        """In the box; from outside, not further out. Near the measured pose; from afar, not further away."""
        box = self.config.workspace
        reference = Rotation.from_quat(box.reference_quaternion)

        def outside(pose: Pose) -> np.ndarray:
            turn = (pose.rotation * reference.inv()).as_rotvec()
            low = np.array([*box.lower_m, *box.rotation_lower_rad])
            high = np.array([*box.upper_m, *box.rotation_upper_rad])
            values = np.array([*pose.position, *turn])
            return np.maximum(np.maximum(low - values, values - high), 0.0)

        assert (outside(target) <= outside(anchor) + EPS).all(), "workspace"
        assert self.measured is not None
        commanded = anchor if self.last is None else self.last[2].at(self.clock)
        (lag, turned), (step, turn) = self.measured.motion_to(commanded), anchor.motion_to(target)
        tracking = self.config.tracking
        most = max(tracking.max_error_m, float(np.linalg.norm(lag)))
        assert np.linalg.norm(lag + step) <= most + EPS, "tracking"
        angle = (Rotation.from_rotvec(turn) * Rotation.from_rotvec(turned)).magnitude()
        assert angle <= max(tracking.max_error_rad, float(np.linalg.norm(turned))) + EPS, "tracking"
        for keep_out in self.config.keep_out:
            deep = [
                float(np.minimum(p.position - keep_out.lower_m, np.array(keep_out.upper_m) - p.position).min())
                for p in (anchor, target)
            ]
            assert deep[1] <= max(0.0, deep[0]) + EPS, "keep out"
