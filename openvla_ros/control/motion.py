"""What an arm driver does with commands: plan, hand over, watch, hold. A pure state machine with an injected clock.

The driver trusts nobody: it holds the arm when the safety filter falls silent, when the arm's own joint states stop,
when a command is late, and while the e-stop is pressed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from openvla_ros.control.arrival import Arrival, ArrivalConfig, Outcome
from openvla_ros.errors import KinematicsError
from openvla_ros.types import ArmState, Array, Command, Pose


class Planner(Protocol):
    """The part of robots.Kinematics that a motion needs."""

    def path(self, q_start: Array, target: Pose, duration: float, count: int) -> Array:
        """(count, n) joint positions [rad] on the straight line to ``target``. Raises KinematicsError."""
        ...


class MotionConfig(BaseModel):
    """Parameters of the driver's motion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    waypoint_period: float = Field(0.04, gt=0.001, le=0.5, description="time between the waypoints of a motion [s]")
    filter_timeout: float = Field(
        0.2, gt=0.0, le=1.0, description="hold when nothing was heard from the safety filter for so long [s]"
    )
    state_timeout: float = Field(0.2, gt=0.0, le=1.0, description="oldest joint states to move on [s]")
    command_timeout: float = Field(0.2, gt=0.0, le=1.0, description="oldest command to carry out [s]")
    reference_tolerance: float = Field(
        0.2, gt=0.0, le=1.0, description="how far a joint may lag its reference before motions start where it is [rad]"
    )
    arrival: ArrivalConfig = Field(default_factory=ArrivalConfig)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What the arm's controller gets: joint positions (k, n) [rad] at even times, the last after ``duration`` [s]."""

    duration: float
    positions: Array
    gripper: float | None = None  # 0 closed .. 1 open; None: leave it as it is


class Motion:
    """``now`` is a steady clock [s] everywhere; stamps of states are the ROS clock's and are only passed on."""

    def __init__(self, planner: Planner, config: MotionConfig) -> None:
        self._planner = planner
        self._config = config
        self._arrival = Arrival(config.arrival)
        self._state: ArmState | None = None
        self._state_received = -np.inf
        self._filter_heard = -np.inf
        self._pressed = False
        self._reference: tuple[Array, Array] | None = (
            None  # times (k,) and positions (k, n) that the controller follows
        )
        self.command: Command | None = None
        self.outcome = Outcome.NONE
        self.outcome_stamp = 0.0  # ROS clock: the state at which the outcome was reached
        self.detail = ""

    def on_state(self, state: ArmState, now: float) -> None:
        """A measurement. One with the stamp of the last is old news and keeps nothing alive."""
        if self._state is not None and state.stamp == self._state.stamp:
            return
        self._state, self._state_received = state, now
        if self.outcome is Outcome.EXECUTING:
            outcome = self._arrival.update(state, now)
            if outcome is not Outcome.EXECUTING:
                self._end(outcome, "")

    def heard_filter(self, now: float) -> None:
        """Any message of the safety filter: a sign of life."""
        self._filter_heard = now

    def on_command(self, command: Command, age: float, now: float) -> Trajectory | None:
        """A command that was decided ``age`` seconds ago. The trajectory to send, or None with ``outcome`` REFUSED."""
        self.heard_filter(now)
        self.command = command
        if command.hold:
            return self._hold(now, "the safety filter asked to hold")
        obstacle = self._obstacle(age, now)
        if obstacle:
            self._end(Outcome.REFUSED, obstacle)
            return None
        q_start = self._reference_at(now)
        count = max(1, round(command.duration / self._config.waypoint_period))
        try:
            positions = self._planner.path(q_start, command.target, command.duration, count)
        except KinematicsError as error:
            self._end(Outcome.REFUSED, str(error))
            return None
        self._arrival.start(command, now)
        self.outcome, self.detail = Outcome.EXECUTING, ""
        return self._send(Trajectory(command.duration, positions, command.gripper), q_start, now)

    def press(self, pressed: bool, now: float) -> Trajectory | None:
        """The e-stop's level, heard by the driver itself: pressing holds, also without the safety filter."""
        self._pressed = pressed
        return self._hold(now, "the e-stop is pressed") if pressed else None

    def tick(self, now: float) -> Trajectory | None:
        """The watchdog, at 50 Hz or more: a hold if a motion lost what it needs."""
        if self.outcome is not Outcome.EXECUTING:
            return None
        if now - self._filter_heard > self._config.filter_timeout:
            return self._hold(now, f"the safety filter was silent for {self._config.filter_timeout:g} s")
        if now - self._state_received > self._config.state_timeout:
            return self._hold(now, f"no joint states for {self._config.state_timeout:g} s")
        return None

    def _obstacle(self, age: float, now: float) -> str:
        """Why no motion may start, empty if one may."""
        if self._pressed:
            return "the e-stop is pressed"
        # Written so that a NaN fails.
        if not age <= self._config.command_timeout:
            return f"the command is {age:.3f} s old, allowed are {self._config.command_timeout:g} s"
        if not now - self._state_received <= self._config.state_timeout:
            return f"no joint states for {self._config.state_timeout:g} s: is the arm's own driver running?"
        return ""

    def _reference_at(self, now: float) -> Array:
        """Joint positions (n,) the controller was told for ``now``; the measured ones if the arm is elsewhere.

        Starting from the measured ones always would lose the controller's lag in every step: the arm would sag.
        """
        assert self._state is not None
        measured = self._state.joint_positions
        if self._reference is None:
            return measured
        times, positions = self._reference
        told = np.array([np.interp(now, times, column) for column in positions.T])
        return told if np.abs(told - measured).max() <= self._config.reference_tolerance else measured

    def _hold(self, now: float, why: str) -> Trajectory | None:
        """Stop where the arm is. Without any measurement there is nowhere to hold, and nothing was ever sent."""
        self._end(Outcome.HELD, why)
        if self._state is None:
            return None
        q = self._state.joint_positions
        return self._send(Trajectory(self._config.waypoint_period, q[None, :]), q, now)

    def _send(self, trajectory: Trajectory, q_start: Array, now: float) -> Trajectory:
        times = now + np.linspace(0.0, trajectory.duration, len(trajectory.positions) + 1)
        self._reference = times, np.concatenate([q_start[None, :], trajectory.positions])
        return trajectory

    def _end(self, outcome: Outcome, detail: str) -> None:
        self.outcome, self.detail = outcome, detail
        self.outcome_stamp = 0.0 if self._state is None else self._state.stamp
