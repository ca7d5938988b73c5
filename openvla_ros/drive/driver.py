"""What an arm driver does with commands: check, hand over, watch, hold. A pure state machine with an injected clock.

A path was judged by the safety filter; the driver does not plan it anew. It executes a path only if that is what comes
next: it begins where the arm is told to be, nothing is missing before it, and the arm's own limits hold. Else it brakes
and says so. It trusts nobody: it also holds when the filter falls silent, when joint states stop, and while the e-stop
is pressed or the filter stopped.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from openvla_ros import geometry
from openvla_ros.drive import joining
from openvla_ros.drive.arrival import Arrival, ArrivalConfig
from openvla_ros.drive.braking import braked
from openvla_ros.drive.grippers.keeper import GripperKeeper, KeeperConfig
from openvla_ros.measurement import Plausibility
from openvla_ros.robots.description import RobotDescription
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import ArmState, Array, Command, DriverState, Outcome, Pose

LONGEST_MOTION = 15.0  # [s] that any safety filter may grant: SafetyConfig's own bound of duration.max_s, smoothed
_EARLIEST = 1.0  # [s] ahead that a path may start
_SHORTEST = 0.002  # [s] of a path that is left when it comes
_SLACK = 1.05  # times the arm's own limits: the path is interpolated between its points
_RANGE_SLACK = 0.02  # [rad] beyond a joint's range, where the arm stands there already
_SAME = 0.005  # [s] between two readings of when a command was decided
_RECENT = 2.0  # [s] within which a doubt has to do with a stop
_SETTLED = 0.5  # [s] at rest after which an arm that is elsewhere is not on its way any more
_LET_GO_SPEED = 0.3  # [rad/s] of the fastest joint
_GENTLE = 0.5  # share of the arm's acceleration for that
_MOVED = 0.06  # [rad] of a joint that nobody commanded
_STAYS = (0.2, 0.5)  # [s] that a hold reaches beyond rest: soon there, and not over for a controller that is late
_DRIFTING = 0.1  # [rad/s] of a joint that is at rest by what it is told


class EndEffectorModel(Protocol):
    """The part of robots.Kinematics that driving needs."""

    def forward(self, q: Array) -> Pose: ...

    def twist(self, q: Array, qd: Array) -> tuple[Array, Array]: ...


class DriverConfig(BaseModel):
    """Parameters of driving."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    filter_timeout: float = Field(
        0.2, gt=0.0, le=1.0, description="hold when nothing was heard from the safety filter for so long [s]"
    )
    state_timeout: float = Field(0.2, gt=0.0, le=1.0, description="oldest joint states to move on [s]")
    command_timeout: float = Field(0.2, gt=0.0, le=1.0, description="oldest command to carry out [s]")
    start_tolerance: float = Field(
        0.01, gt=0.0, le=0.1, description="how far a path may begin from where the arm is told to be then [rad]"
    )
    start_speed_tolerance: float = Field(
        0.3, gt=0.0, le=1.0, description="how much its joints' speed may differ there [rad/s]: a command that is late"
    )
    reference_tolerance: float = Field(
        0.2,
        gt=0.0,
        le=1.0,
        description="how far a joint may be from where it is told to be [rad]; beyond, the arm holds",
    )
    wind_up_m: float = Field(
        0.03, gt=0.0, le=0.2, description="distance from where a held arm is told to be, above which it is let go [m]"
    )
    wind_up_rad: float = Field(0.15, gt=0.0, le=1.0, description="the same for its rotation [rad]")
    arrival: ArrivalConfig = Field(default_factory=ArrivalConfig)
    gripper: KeeperConfig = Field(default_factory=KeeperConfig)


class Driver:
    """``now`` is a steady clock [s] everywhere, that of a command's path too; stamps of states are the ROS clock's.

    What a method returns is to be handed to the arm's controller at once: a trajectory from now on. ``gripper`` has a
    ``tick`` of its own for what the gripper's controller is to be told.
    """

    def __init__(self, robot: RobotDescription, kinematics: EndEffectorModel, config: DriverConfig) -> None:
        self._robot = robot
        self._kinematics = kinematics
        self._config = config
        self.gripper = GripperKeeper(config.gripper)
        self._arrival = Arrival(config.arrival, self.gripper.progress)
        self._plausibility = Plausibility(robot.joint_names, robot.lower, robot.upper, robot.max_velocity)
        self._state: ArmState | None = None
        self._state_received = -math.inf
        self._doubted = -math.inf  # when a measurement was last not believed
        self._filter_heard = -math.inf
        self._pressed = self._stopped = False
        self._told: Trajectory | None = None  # what the controller follows; None: nothing of ours
        self._stopping: Trajectory | None = None  # the one that it comes to rest along
        self._decided = -math.inf  # when the last command was, on our clock
        self._running = 0  # sequence of the command that it is from, which the next one may go on from
        self._may_let_go = False
        self._away_since: float | None = None
        self._rested: Array | None = None  # (n,) where the arm was measured when it came to rest
        self._displaced = 0.0  # ROS clock
        self.unbelieved = ""  # why the last measurement counts as missing
        self.unexpected = ""  # motion that nobody commanded
        self.command: Command | None = None
        self.outcome = Outcome.NONE
        self.outcome_stamp = 0.0  # ROS clock: the state at which the outcome was reached
        self.detail = ""

    # ---- what is heard

    def on_state(self, state: ArmState, now: float) -> bool:
        """A measurement: whether it counts. An old one, or one that the arm cannot have, keeps nothing alive."""
        fresh = self._is_fresh(now)
        if self._state is not None and state.stamp <= self._state.stamp and (fresh or state.stamp == self._state.stamp):
            return False
        verdict = self._plausibility.judge(state.joint_positions, state.stamp)
        self.unbelieved = verdict.problem
        if verdict.problem:
            self._doubted = now
            return False
        self._state, self._state_received = state, now
        self.gripper.on_measured(state.gripper, state.stamp, now)
        if verdict.leapt:
            self._find_elsewhere(state)
        self._watch(state, now)
        self._notice_motion(state, now)
        return True

    def heard_filter(self, now: float, stopped: bool | None = None) -> Trajectory | None:
        """A sign of life of the safety filter; ``stopped``: whether it is, where it says so. It may ask for a hold."""
        self._filter_heard = now
        if stopped is None:
            return None
        before, self._stopped = self._stopped, stopped
        if before and not stopped:  # somebody has looked, and reset
            if self._displaced or now - self._doubted < _RECENT:
                self._told, self._running = None, 0
            self._displaced, self._doubted = 0.0, -math.inf
        if stopped and not before and self._under_way:
            return self._hold(now, "the safety filter is stopped")
        return None

    def on_command(self, command: Command, age: float, now: float) -> Trajectory | None:
        """What to send for a command that was decided ``age`` seconds ago; ``outcome`` says where it is REFUSED."""
        self.heard_filter(now)
        decided = now - age
        overtaken = self.command is not None and command.sequence <= self.command.sequence
        if not command.hold and overtaken and decided <= self._decided + _SAME:
            return None  # or twice; a filter that was started anew counts from 1, but later
        self.command = command
        self._decided = max(self._decided, decided) if math.isfinite(decided) else self._decided
        if command.hold:
            return self._hold(now, "the safety filter asked to hold")
        problem = self._obstacle(command, age, now)
        if problem:
            return self._refuse(problem, now)
        told = self._continued(command, now)
        if isinstance(told, str):
            return self._refuse(told, now)
        problem = self._own_limits(told)
        if problem:
            return self._refuse(problem, now)
        self._told, self._running = told, command.sequence
        self.gripper.command(command.gripper, command.duration, now)
        self._arrival.start(command, told.end - command.duration)
        self._may_let_go, self._away_since, self._rested, self.unexpected = False, None, None, ""
        self.outcome, self.detail = Outcome.EXECUTING, ""
        return told

    def press(self, pressed: bool, now: float) -> Trajectory | None:
        """The e-stop's level, heard by the driver itself: pressed, it holds, also without the safety filter."""
        self._pressed = pressed
        return self._hold(now, "the e-stop is pressed") if pressed else None

    def end(self, now: float) -> Trajectory | None:
        """The driver is about to end: the arm holds before."""
        return self._hold(now, "the arm driver ends")

    def tick(self, now: float) -> Trajectory | None:
        """The watchdog, at 50 Hz or more: a hold if a motion lost what it needs; an arm held elsewhere is let go."""
        if self._under_way:
            if now - self._filter_heard > self._config.filter_timeout:
                return self._hold(now, f"the safety filter was silent for {self._config.filter_timeout:g} s")
            if not self._is_fresh(now):
                return self._hold(now, f"no joint states for {self._config.state_timeout:g} s")
            self._watch(None, now)
        return self._let_go(now)

    # ---- what is told

    def missing(self, now: float) -> str:
        """What no motion can do without, for people; empty where all is there."""
        if not self._is_fresh(now):
            why = self.unbelieved or "is the arm's own driver running?"
            return f"no joint states for {self._config.state_timeout:g} s: {why}"
        if self._displaced:
            return "the joints were found elsewhere at once: look at the arm, then stop and reset the safety filter"
        if now - self._filter_heard > self._config.filter_timeout:
            return f"the safety filter was silent for {self._config.filter_timeout:g} s: is it running?"
        return ""

    def told(self, now: float) -> DriverState | None:
        """What others need to know to go on; None before the first measurement."""
        if self._state is None:
            return None
        return DriverState(
            reference=self._reference(now)[0],
            at_rest=self._told.rests(now) if self._told is not None else not self._drifts,
            command_sequence=self.command.sequence if self.command is not None else 0,
            outcome=self.outcome,
            detail=self.detail,
            displaced=self._displaced,
            unexpected=self.unexpected,
        )

    # ---- judging

    @property
    def _under_way(self) -> bool:
        """Whether a motion runs, or its end has not been measured."""
        return self._arrival.outcome is Outcome.EXECUTING

    @property
    def _drifts(self) -> bool:
        """Whether it is measured that the arm moves, though we may have told it nothing: what another driver began."""
        return self._state is not None and bool(abs(self._state.joint_velocities).max() > _DRIFTING)

    def _is_fresh(self, now: float) -> bool:
        return now - self._state_received <= self._config.state_timeout

    def _is_doubtful(self, now: float) -> bool:
        """Whether one of the last measurements was not believed: of two that contradict each other, which is false?"""
        return now - self._doubted < _SETTLED

    def _reference(self, now: float) -> tuple[Array, Array]:
        """(n,) and (n,): positions and velocities that the controller is told for now, else measured."""
        assert self._state is not None
        if self._told is not None:
            return self._told.at(now)
        return self._state.joint_positions, np.zeros_like(self._state.joint_positions)

    def _obstacle(self, command: Command, age: float, now: float) -> str:
        """Why no motion may start, empty if one may. Written so that a NaN fails."""
        limit = self._config.command_timeout
        if self._pressed:
            return "the e-stop is pressed"
        if self._stopped:
            return "the safety filter is stopped"
        if not age <= limit:
            return f"the command is {age:.3f} s old, allowed are {limit:g} s"
        if not age >= -limit:
            return f"the command is from {-age:.3f} s in the future: are the clocks of both machines synchronized?"
        if not 0.0 < command.duration <= LONGEST_MOTION:
            return f"the motion's duration is {command.duration:g} s, allowed are up to {LONGEST_MOTION:g} s"
        if not 0.0 <= command.gripper <= 1.0:
            return f"the gripper's target is {command.gripper:g}, allowed are 0 (closed) to 1 (open)"
        if command.path is None:
            return "the command has no path: give the safety filter the robot (its parameter `robot`)"
        joints = len(self._robot.joint_names)
        if command.path.positions.shape[1] != joints:
            return f"the path is of {command.path.positions.shape[1]} joints, {self._robot.name} has {joints}"
        return self.missing(now) or self._unknown(now)

    def _unknown(self, now: float) -> str:
        """Why it is not known where the arm is told to be, for a motion from rest; empty if it is."""
        if self._told is None and self._drifts:
            return "the arm moves, and not by this driver's word: it comes to rest first"
        if self._is_doubtful(now) and (self._told is None or self._told.rests(now)):
            return "joint states contradict each other, or what an arm can do: it is not known where the arm is"
        return ""

    def _continued(self, command: Command, now: float) -> Trajectory | str:
        """What the controller is told until the path begins, and the path; or why that is not what comes next."""
        assert self._state is not None
        path, config = command.path, self._config
        assert path is not None
        told = self._told or Trajectory.at_rest(self._state.joint_positions, now)
        if command.continues and command.continues != self._running:
            return f"it goes on from command {command.continues}, which is not under way: lost, or held meanwhile"
        if path.start < now and told.rests(path.start) and path.duration > 0:
            path = path.shifted(now - path.start)  # nothing has moved meanwhile
        begin = max(path.start, now)
        if begin > now + _EARLIEST or begin > path.end - _SHORTEST:
            return (
                f"its path is from {path.start - now:.3f} s to {path.end - now:.3f} s from now: too late, or too early"
            )
        (q, qd), (q_path, qd_path) = told.at(begin), path.at(begin)
        gap, jump = float(abs(q - q_path).max()), float(abs(qd - qd_path).max())
        if not gap <= config.start_tolerance:
            return f"it begins {gap:.3f} rad from where the arm is told to be"
        if not jump <= config.start_speed_tolerance:
            return f"it begins {jump:.2f} rad/s off the speed of the arm: it came {begin - path.start:.3f} s late"
        lag = float(abs(told.at(now)[0] - self._state.joint_positions).max())
        if not lag <= config.reference_tolerance:
            return f"the arm is {lag:.2f} rad from where it is told to be"
        joined = told.since(now).followed_by(path, begin)
        return joining.problem(joined, path, begin, self._kinematics.twist, self._robot.cartesian_limits) or joined

    def _own_limits(self, told: Trajectory) -> str:
        """Why the arm must not do this: its own limits, at and between the points. Written so that a NaN fails."""
        robot = self._robot
        times = np.union1d(told.times, (told.times[1:] + told.times[:-1]) / 2)
        positions, velocities = told.sampled(times)
        lower = np.minimum(robot.lower, positions[0]) - _RANGE_SLACK
        upper = np.maximum(robot.upper, positions[0]) + _RANGE_SLACK
        if not ((positions >= lower) & (positions <= upper)).all():
            return "its path leaves the range of a joint"
        share = abs(velocities) / robot.max_velocity
        if not share.max() <= _SLACK:
            joint = robot.joint_names[int(share.max(axis=0).argmax())]
            return f"its path turns {joint} at {share.max():.2f} times its speed"
        limits = robot.cartesian_limits
        for q, qd in zip(positions, velocities, strict=True):
            linear, angular = (math.hypot(*part.tolist()) for part in self._kinematics.twist(q, qd))
            if not (linear <= _SLACK * limits.max_linear and angular <= _SLACK * limits.max_angular):
                return (
                    f"its path moves the end effector at {linear:.2f} m/s, {angular:.2f} rad/s: more than the arm may"
                )
        return ""

    # ---- holding

    def _refuse(self, why: str, now: float) -> Trajectory | None:
        """Not carried out; and what was under way ends."""
        self._break_off(Outcome.REFUSED, why)
        return self._stop(now) if self._told is not None and not self._told.rests(now) else None

    def _hold(self, now: float, why: str) -> Trajectory | None:
        self.gripper.hold(now)
        self._break_off(Outcome.HELD, why)
        return self._stop(now)

    def _break_off(self, outcome: Outcome, why: str) -> None:
        """Nothing is under way any more that a command could go on from."""
        self._running, self._may_let_go = 0, True
        self._arrival = Arrival(self._config.arrival, self.gripper.progress)
        self._end(outcome, why)

    def _stop(self, now: float) -> Trajectory | None:
        """To rest along the path that the arm is on; an arm at rest stays where it is told to be.

        So a hold again (a button may repeat its level) changes nothing. None where it is not known where the arm is:
        an old, or false, measurement is no place to go to.
        """
        told, limits = self._told, self._robot.cartesian_limits
        if told is not None and not told.rests(now):
            if told is self._stopping:
                return told.since(now)
            linear, angular = limits.max_linear_acceleration, limits.max_angular_acceleration
            braking = braked(told, now, self._kinematics.twist, linear, angular)
            self._told = self._stopping = _and_stays(braking)
            return self._told
        if self._displaced or self._is_doubtful(now) or not self._is_fresh(now) or self._state is None:
            return None
        q, qd = self._state.joint_positions, self._state.joint_velocities
        if self._drifts and (told is None or abs(told.last - q).max() > _MOVED):
            self._told = _and_stays(self._stopped_from(q, qd, now))  # somebody else moves it
        else:
            place = self._within_range(q) if told is None else told.last
            self._told = _and_stays(Trajectory.at_rest(place, now))
        return self._told

    def _stopped_from(self, q: Array, qd: Array, now: float, within: float = 0.1) -> Trajectory:
        qd = np.clip(qd, -self._robot.max_velocity, self._robot.max_velocity)
        rest = self._within_range(q + qd * within / 2)
        return Trajectory(np.array([now, now + within]), np.stack([q, rest]), np.stack([qd, np.zeros_like(qd)]))

    def _let_go(self, now: float) -> Trajectory | None:
        """An arm that is kept from where it is told to be would push on: it is told, slowly, to be where it is."""
        told, state = self._told, self._state
        known = self._is_fresh(now) and not self._is_doubtful(now) and not self._displaced
        if told is None or state is None or not known or not told.rests(now):
            self._away_since = None
            return None
        late = self.outcome is Outcome.TIMED_OUT and self._may_let_go
        lag = abs(told.last - state.joint_positions)
        far = lag.max() > self._config.reference_tolerance
        distance, angle = geometry.errors(self._kinematics.forward(told.last), state.pose)
        wound_up = distance > self._config.wind_up_m or angle > self._config.wind_up_rad
        if not (late or far or (self._may_let_go and wound_up)):
            self._away_since = None
            return None
        if self._away_since is None:
            self._away_since = now
        if not late and now - self._away_since < _SETTLED:
            return None
        if far and not late and self.outcome not in (Outcome.HELD, Outcome.REFUSED):
            self._hold(now, f"the arm is {lag.max():.2f} rad from where it is told to be: blocked, or moved by hand")
        place = self._within_range(state.joint_positions)
        limits = self._robot.cartesian_limits
        time = max(  # of a cubic: the peak of its speed is 1.5, that of its acceleration 6 times the mean
            1.5 * float(lag.max()) / _LET_GO_SPEED,
            math.sqrt(6 * distance / (_GENTLE * limits.max_linear_acceleration)),
            math.sqrt(6 * angle / (_GENTLE * limits.max_angular_acceleration)),
            0.2,
        )
        still = np.zeros((2, len(place)))
        self._told = Trajectory(np.array([now, now + time]), np.stack([told.last, place]), still)
        self._may_let_go, self._running, self._away_since, self._rested = False, 0, None, None
        return self._told

    def _within_range(self, q: Array) -> Array:
        return np.clip(q, self._robot.lower, self._robot.upper)

    # ---- watching

    def _watch(self, state: ArmState | None, now: float) -> None:
        if not self._under_way:
            return
        outcome = self._arrival.update(state, now)
        # The outcome of a command that was refused meanwhile stays REFUSED.
        if outcome is not Outcome.EXECUTING and self.outcome is Outcome.EXECUTING:
            late = f"not at the target {self._config.arrival.timeout:g} s after the motion should have ended"
            self._end(outcome, late if outcome is Outcome.TIMED_OUT else "")
            if outcome is Outcome.TIMED_OUT:
                self._running, self._may_let_go = 0, True

    def _find_elsewhere(self, state: ArmState) -> None:
        """The arm is not where it was: nothing of ours is sent until somebody has looked."""
        self._displaced = state.stamp
        self._told = self._rested = None
        self._break_off(Outcome.HELD, "the joints were found elsewhere at once")

    def _notice_motion(self, state: ArmState, now: float) -> None:
        """An arm that is told to stay, and moves."""
        commanded = self._told is not None or self._stopped
        if not commanded or self._displaced or (self._told is not None and not self._told.rests(now - _SETTLED)):
            self._rested = None
            return
        if self._rested is None:
            self._rested = state.joint_positions
        moved = float(abs(state.joint_positions - self._rested).max())
        if moved > _MOVED:
            self.unexpected = (
                f"the arm moved by {moved:.2f} rad though nobody commanded it: is something else publishing on "
                f"{self._robot.interface.arm_topic}, or is it pushed?"
            )

    def _end(self, outcome: Outcome, detail: str) -> None:
        self.outcome, self.detail = outcome, detail
        self.outcome_stamp = 0.0 if self._state is None else self._state.stamp


def _and_stays(told: Trajectory) -> Trajectory:
    """With points at its end that are still to come when the controller gets it: what is over is rejected."""
    rest = np.repeat(told.last[None, :], len(_STAYS), axis=0)
    return Trajectory(
        np.append(told.times, told.end + np.array(_STAYS)),
        np.vstack([told.positions, rest]),
        np.vstack([told.velocities, np.zeros_like(rest)]),
    )
