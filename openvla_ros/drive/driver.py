"""What an arm driver does with commands: plan, hand over, watch, hold. A pure state machine with an injected clock.

The driver trusts nobody: it holds the arm when the safety filter falls silent, when the arm's own joint states stop,
when a command is late, and while the e-stop is pressed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from openvla_ros.drive.arrival import Arrival, ArrivalConfig
from openvla_ros.errors import KinematicsError
from openvla_ros.types import ArmState, Array, Command, Outcome, Pose

LONGEST_MOTION = 10.0  # [s] that any safety filter may grant: SafetyConfig's own bound of duration.max_s


class Planner(Protocol):
    """The part of robots.Kinematics that a motion needs."""

    def path(self, q_start: Array, target: Pose, duration: float, count: int) -> Array:
        """(count, n) joint positions [rad] on the straight line to ``target``. Raises KinematicsError."""
        ...


class DriverConfig(BaseModel):
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


class Driver:
    """``now`` is a steady clock [s] everywhere; stamps of states are the ROS clock's and are only passed on."""

    def __init__(self, planner: Planner, config: DriverConfig) -> None:
        self._planner = planner
        self._config = config
        self._arrival = Arrival(config.arrival)
        self._state: ArmState | None = None
        self._state_received = -np.inf
        self._filter_heard = -np.inf
        self._pressed = False
        self._holding = False  # the last trajectory that was sent is a hold
        # Times (k,) and positions (k, n) that the controller follows.
        self._reference: tuple[Array, Array] | None = None
        self.command: Command | None = None
        self.outcome = Outcome.NONE
        self.outcome_stamp = 0.0  # ROS clock: the state at which the outcome was reached
        self.detail = ""

    def on_state(self, state: ArmState, now: float) -> None:
        """A measurement. One with the stamp of the last is old news and keeps nothing alive."""
        if self._state is not None and state.stamp == self._state.stamp:
            return
        self._state, self._state_received = state, now
        self._watch(state, now)

    def heard_filter(self, now: float) -> None:
        """Any message of the safety filter: a sign of life."""
        self._filter_heard = now

    def on_command(self, command: Command, age: float, now: float) -> Trajectory | None:
        """A command that was decided ``age`` seconds ago. The trajectory to send, or None with ``outcome`` REFUSED."""
        self.heard_filter(now)
        self.command = command
        if command.hold:
            return self._hold(now, "the safety filter asked to hold")
        obstacle = self._obstacle(command, age, now)
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
        self._holding = False
        self.outcome, self.detail = Outcome.EXECUTING, ""
        return self._send(Trajectory(command.duration, positions, command.gripper), q_start, now)

    def press(self, pressed: bool, now: float) -> Trajectory | None:
        """The e-stop's level, heard by the driver itself: pressed, it holds, also without the safety filter."""
        self._pressed = pressed
        return self._hold(now, "the e-stop is pressed") if pressed else None

    def tick(self, now: float) -> Trajectory | None:
        """The watchdog, at 50 Hz or more: a hold if a motion lost what it needs."""
        if not self._under_way:
            return None
        if now - self._filter_heard > self._config.filter_timeout:
            return self._hold(now, f"the safety filter was silent for {self._config.filter_timeout:g} s")
        if now - self._state_received > self._config.state_timeout:
            return self._hold(now, f"no joint states for {self._config.state_timeout:g} s")
        self._watch(None, now)
        return None

    def missing(self, now: float) -> str:
        """What no motion can do without, for people; empty where all is there."""
        if not self._is_fresh(now):
            return f"no joint states for {self._config.state_timeout:g} s: is the arm's own driver running?"
        if now - self._filter_heard > self._config.filter_timeout:
            return f"the safety filter was silent for {self._config.filter_timeout:g} s: is it running?"
        return ""

    @property
    def _under_way(self) -> bool:
        """Whether the motion that was sent last still runs: also when a command after it was refused."""
        return self._arrival.outcome is Outcome.EXECUTING

    def _watch(self, state: ArmState | None, now: float) -> None:
        if not self._under_way:
            return
        outcome = self._arrival.update(state, now)
        # The outcome of a command that was refused meanwhile stays REFUSED.
        if outcome is not Outcome.EXECUTING and self.outcome is Outcome.EXECUTING:
            late = f"not at the target {self._config.arrival.timeout:g} s after the motion should have ended"
            self._end(outcome, late if outcome is Outcome.TIMED_OUT else "")

    def _obstacle(self, command: Command, age: float, now: float) -> str:
        """Why no motion may start, empty if one may. Written so that a NaN fails."""
        if self._pressed:
            return "the e-stop is pressed"
        limit = self._config.command_timeout
        if not age <= limit:
            return f"the command is {age:.3f} s old, allowed are {limit:g} s"
        if not age >= -limit:
            return f"the command is from {-age:.3f} s in the future: are the clocks of both machines synchronized?"
        if not 0.0 < command.duration <= LONGEST_MOTION:
            return f"the motion's duration is {command.duration:g} s, allowed are up to {LONGEST_MOTION:g} s"
        if not 0.0 <= command.gripper <= 1.0:
            return f"the gripper's target is {command.gripper:g}, allowed are 0 (closed) to 1 (open)"
        return self.missing(now)

    def _is_fresh(self, now: float) -> bool:
        return now - self._state_received <= self._config.state_timeout

    def _told(self, now: float) -> Array | None:
        """Joint positions (n,) that the controller was told for ``now``, None if it was told nothing yet."""
        if self._reference is None:
            return None
        times, positions = self._reference
        return np.array([np.interp(now, times, column) for column in positions.T])

    def _reference_at(self, now: float) -> Array:
        """Joint positions (n,) the controller was told for ``now``; the measured ones if the arm is elsewhere.

        Starting from the measured ones always would lose the controller's lag in every step: the arm would sag.
        """
        assert self._state is not None
        measured, told = self._state.joint_positions, self._told(now)
        if told is None or not np.abs(told - measured).max() <= self._config.reference_tolerance:
            return measured
        return told

    def _hold(self, now: float, why: str) -> Trajectory | None:
        """Stop where the arm is, None if that is not known and no motion of ours runs.

        A hold again (an e-stop button may repeat its level) stays where the first was, or the arm would sag with each.
        """
        q: Array | None
        if self._is_fresh(now):
            assert self._state is not None
            q = self._reference_at(now) if self._holding else self._state.joint_positions
        else:
            # An old measurement lies behind a moving arm: going there would be a jerk backwards.
            q = self._told(now) if self._under_way else None
        self._end(Outcome.HELD, why)
        self._arrival = Arrival(self._config.arrival)
        if q is None:
            return None
        self._holding = True
        return self._send(Trajectory(self._config.waypoint_period, q[None, :]), q, now)

    def _send(self, trajectory: Trajectory, q_start: Array, now: float) -> Trajectory:
        times = now + np.linspace(0.0, trajectory.duration, len(trajectory.positions) + 1)
        self._reference = times, np.concatenate([q_start[None, :], trajectory.positions])
        return trajectory

    def _end(self, outcome: Outcome, detail: str) -> None:
        self.outcome, self.detail = outcome, detail
        self.outcome_stamp = 0.0 if self._state is None else self._state.stamp
