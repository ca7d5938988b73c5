"""What holds for any sequence of actions, arm states, clock steps, stops and resets.

``HYPOTHESIS_PROFILE=nightly pytest test/control/test_safety_properties.py`` runs at least 10^6 events.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from safety_scene import START, arm_state
from scipy.spatial.transform import Rotation

from openvla_ros.control.safety import Decision, SafetyConfig, SafetyFilter, State, Verdict
from openvla_ros.types import Action, ArmState, Command, Pose, StampedAction

EVENTS = 50  # at least, in every example
settings.register_profile("quick", max_examples=60, deadline=None)
settings.register_profile("nightly", max_examples=1_000_000 // EVENTS, deadline=None)
PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

EPS = 1e-6
ODD = [0.0, -0.0, 5e-324, 1e-310, 0.05, -0.25, 0.9, 3.1, 1e3, 1e308, -1e308, math.nan, math.inf, -math.inf]

CONFIGS = [
    SafetyConfig(),
    SafetyConfig(ramp_in={"duration_s": 0.0}, motion={"max_acceleration_m_s2": 0.4, "max_acceleration_rad_s2": 1.5}),
    SafetyConfig(
        ramp_in={"duration_s": 0.0},
        workspace={
            "lower_m": (0.27, -0.08, 0.17),
            "upper_m": (0.33, -0.02, 0.23),
            "rotation_lower_rad": (-0.2, -0.2, -0.3),
            "rotation_upper_rad": (0.2, 0.2, 0.3),
        },
    ),
    SafetyConfig(
        ramp_in={"duration_s": 0.0},
        keep_out=[{"name": "box", "lower_m": (0.32, -0.1, 0.1), "upper_m": (0.36, 0.0, 0.3)}],
        gripper={"min": 0.2, "max": 0.8, "max_rate_per_s": 2.0},
        tracking={"max_error_m": 0.05, "max_error_rad": 0.25},
        watchdog={"silence_s": 0.3},
    ),
]

# One event: (kind, time step, three numbers for the arm, seven for the action, [ages and duration], jump in sequence)
TINY, SMALL, ANY = st.floats(-0.02, 0.02), st.floats(-0.12, 0.12), st.one_of(st.floats(-0.5, 0.5), st.sampled_from(ODD))
VALUES = st.one_of(*(st.lists(kind, min_size=7, max_size=7) for kind in (TINY, SMALL, SMALL, SMALL, SMALL, ANY)))
ODD_STEPS = st.sampled_from([0.0, 0.001, 0.001, 1.0, 4.0, 4.0, -0.01, -0.04, -0.5, -100.0])
STEPS = st.one_of(*[st.just(0.2)] * 8, *[st.floats(0.0, 0.4)] * 3, ODD_STEPS)
TIMES = st.one_of(
    *[st.just((0.001, 0.002, 0.2))] * 5,
    st.tuples(
        st.one_of(st.floats(-0.1, 0.4), st.sampled_from(ODD)),
        st.one_of(st.floats(-0.1, 1.5), st.sampled_from(ODD)),
        st.one_of(st.floats(-0.1, 3.0), st.sampled_from(ODD)),
    ),
)
KINDS = st.sampled_from(["action"] * 30 + ["tick", "tick", "stop", "press"] + ["release"] * 5 + ["reset"] * 10)
ARMS = st.sampled_from(["follows"] * 12 + ["blocked"] * 4 + ["drifts"] * 2 + ["pushed", "broken", "old", "missing"])
EVENT = st.tuples(KINDS, STEPS, ARMS, VALUES, TIMES, st.sampled_from([1] * 20 + [0, -3, 10**18]))


@dataclass
class Watcher:
    """Drives a filter with events and checks every decision by its own bookkeeping."""

    config: SafetyConfig

    def __post_init__(self) -> None:
        self.filter = SafetyFilter(self.config)
        self.now = self.clock = 1000.0  # the time that is told, and what the filter makes of it
        self.filter.tick(self.now)
        self.sequence = 0
        self.latched = False
        self.pressed = False
        self.measured: Pose | None = None
        self.arm_pose = START
        self.last: tuple[Command, float, float, np.ndarray, np.ndarray] | None = None  # command, at, until, velocities

    def run(self, events: list[Any]) -> list[str]:
        return [repr(self.one(*event)) for event in events]

    def one(self, kind: str, step: float, arm: str, values: list[float], times: Any, jump: int) -> Any:
        self.now += step
        if kind != "reset" or self.latched:  # with nothing to reset, the filter does not even look at the time
            if self.now < self.clock - self.config.clock.backwards_tolerance_s:
                self.latched, self.clock = True, self.now
            self.clock = max(self.clock, self.now)
        self.move_arm(arm, values)
        if kind == "reset":
            return self.reset()
        raw = None
        if kind == "action":
            self.sequence += jump
            stamp, observed, duration = times
            raw = StampedAction(
                Action.from_array(np.array(values)), self.now - observed, self.now - stamp, duration, self.sequence
            )
            decision = self.filter.on_action(raw, self.now)
        elif kind == "tick":
            decision = self.filter.tick(self.now)
        elif kind == "stop":
            self.latched = True
            decision = self.filter.stop("test", self.now)
            assert decision.command is not None
        else:
            self.pressed = kind == "press"
            self.latched |= self.pressed
            decision = self.filter.press(self.pressed, self.now)
        self.check(decision, raw)
        return decision

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
            self.filter.on_arm_state(state)
            if arm != "broken":
                self.measured = self.arm_pose

    def reset(self) -> tuple[bool, str]:
        was_stopped = self.filter.state is State.STOPPED
        done, message = self.filter.reset(self.now)
        assert not (was_stopped and done and self.pressed)
        if done and was_stopped:
            self.latched, self.last = False, None
        return done, message

    def check(self, decision: Decision, action: StampedAction | None) -> None:
        assert (decision.state is State.STOPPED) == self.latched
        assert not any(report.rule == "unsettled" for report in decision.reports)
        command = decision.command
        if command is not None:
            numbers = (*command.target.position, *command.target.quaternion, command.gripper, command.duration)
            assert np.isfinite(numbers).all()
            assert abs(np.linalg.norm(command.target.quaternion) - 1) < 1e-9
        if command is None or command.hold:
            assert decision.verdict in (Verdict.NO_ACTION, Verdict.REFUSED)
            if command is not None or decision.state is State.WAITING:
                self.last = None
            return
        assert action is not None
        assert not self.latched
        self.check_move(decision, command, action)

    def check_move(self, decision: Decision, command: Command, action: StampedAction) -> None:
        config, asked, passed = self.config, decision.raw, decision.filtered
        assert asked is not None
        assert passed is not None
        assert self.measured is not None
        assert np.isfinite(asked.to_array()).all()
        assert 0 - 0.06 <= self.clock - action.stamp <= config.freshness.action_max_age_s + EPS
        assert 0 - 0.06 <= self.clock - action.observation_stamp <= config.freshness.observation_max_age_s + EPS

        anchor, time = self.measured, command.duration
        linear = angular = np.zeros(3)
        if self.last is not None:
            anchor, time = self.last[0].target, min(command.duration, self.clock - self.last[1])
            assert time >= config.rate.min_interval_s
            if self.clock < self.last[2]:
                linear, angular = self.last[3], self.last[4]
        step, turn = anchor.motion_to(command.target)

        for vector, most, fastest, hardest, before in (
            (step, config.motion.max_step_m, config.motion.max_speed_m_s, config.motion.max_acceleration_m_s2, linear),
            (
                turn,
                config.motion.max_step_rad,
                config.motion.max_speed_rad_s,
                config.motion.max_acceleration_rad_s2,
                angular,
            ),
        ):
            assert np.linalg.norm(vector) <= most + EPS
            assert np.linalg.norm(vector) <= fastest * time + EPS
            velocity = np.where(np.abs(vector) < 1e-9, 0, vector) / time
            braking = (np.sign(velocity) * np.sign(before) >= 0) & (np.abs(velocity) <= np.abs(before))
            assert np.linalg.norm((velocity - before)[~braking]) <= hardest * time + 1e-4

        self.check_direction(decision, asked, step, turn)
        self.check_place(anchor, command.target)
        assert config.duration.min_s <= command.duration <= config.duration.max_s
        assert config.gripper.min <= command.gripper <= config.gripper.max
        if decision.verdict is Verdict.ACCEPTED:
            assert passed is asked
            assert not any(report.rule not in ("freeze", "arm_state") for report in decision.reports)
        self.last = (command, self.clock, self.clock + command.duration, step / time, turn / time)

    def check_direction(self, decision: Decision, asked: Action, step: np.ndarray, turn: np.ndarray) -> None:
        """Scaled, never turned; at a wall only components are shortened."""
        wanted = Rotation.from_euler("xyz", asked.rotation).as_rotvec()
        assert np.linalg.norm(np.cross(wanted, turn)) <= 1e-7
        assert wanted @ turn >= -1e-9
        if any(r.rule == "workspace" and "clipped" in r.detail for r in decision.reports):
            assert (step * asked.translation >= -1e-9).all()
            assert (np.abs(step) <= np.abs(asked.translation) + 1e-9).all()
        else:
            assert np.linalg.norm(np.cross(asked.translation, step)) <= 1e-7
            assert asked.translation @ step >= -1e-9

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

        assert (outside(target) <= outside(anchor) + EPS).all()
        assert self.measured is not None
        (before, turn_before), (after, turn_after) = self.measured.motion_to(anchor), self.measured.motion_to(target)
        tracking = self.config.tracking
        assert np.linalg.norm(after) <= max(tracking.max_error_m, float(np.linalg.norm(before))) + EPS
        assert np.linalg.norm(turn_after) <= max(tracking.max_error_rad, float(np.linalg.norm(turn_before))) + EPS
        for keep_out in self.config.keep_out:
            deep = [
                float(np.minimum(p.position - keep_out.lower_m, np.array(keep_out.upper_m) - p.position).min())
                for p in (anchor, target)
            ]
            assert deep[1] <= max(0.0, deep[0]) + EPS


@PROFILE
@given(st.sampled_from(CONFIGS), st.lists(EVENT, min_size=EVENTS, max_size=2 * EVENTS))
def test_nothing_leaves_its_limits_whatever_comes(config: SafetyConfig, events: list[Any]) -> None:
    """Hazard: the sequence that nobody thought of.

    The commanded pose never leaves the box, never steps, speeds up or accelerates beyond its limits and keeps its
    direction; nothing moves while latched; only finite values reach a command; the same input gives the same output.
    """
    assert Watcher(config).run(events) == Watcher(config).run(events)
