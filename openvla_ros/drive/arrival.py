"""Whether the arm has arrived: measured, never assumed from the time that has passed."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field

from openvla_ros import geometry
from openvla_ros.drive.grippers import GripperProgress, ProgressConfig
from openvla_ros.types import ArmState, Command, Outcome


class ArrivalConfig(BaseModel):
    """What counts as arrived."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    position_tolerance: float = Field(0.01, gt=0, le=0.1, description="distance to the target [m]")
    rotation_tolerance: float = Field(0.05, gt=0, le=0.5, description="angle to the target [rad]")
    rest_linear: float = Field(0.02, gt=0, le=0.2, description="speed below which the end effector is at rest [m/s]")
    rest_angular: float = Field(0.1, gt=0, le=1.0, description="the same for its rotation [rad/s]")
    settle: float = Field(0.1, gt=0, le=2.0, description="how long it must be there, at rest [s]")
    timeout: float = Field(2.0, gt=0, le=30.0, description="time to arrive in after the motion's duration [s]")


class Arrival:
    """Watches one motion at a time.

    ``now`` [s] may be any clock that does not step; only differences of the states' stamps are used. The time at the
    target counts from the end of the motion's duration: an arm that has not begun to move is at rest as well.
    """

    def __init__(self, config: ArrivalConfig, gripper: GripperProgress | None = None) -> None:
        """gripper: that of whoever keeps the gripper at its target, which outlives this; None: one of its own."""
        self._config = config
        self._gripper = gripper or GripperProgress(ProgressConfig())
        self._command: Command | None = None
        self._end = math.inf
        self._settled_since: float | None = None
        self.outcome = Outcome.NONE

    def start(self, command: Command, now: float) -> None:
        """A motion begins; a HOLD ends the one before."""
        self._command = command
        self._end = now + command.duration
        self._settled_since = None
        if not command.hold:
            self._gripper.aim(command.gripper, now)
        self.outcome = Outcome.HELD if command.hold else Outcome.EXECUTING

    def update(self, state: ArmState | None, now: float) -> Outcome:
        """With a new measurement, or None where there is none: the time to arrive in runs out all the same."""
        if self.outcome is not Outcome.EXECUTING:
            return self.outcome
        if state is not None and self._is_settled(state, now):
            self.outcome = Outcome.ARRIVED
        elif now > self._end + self._config.timeout:
            self.outcome = Outcome.TIMED_OUT
        return self.outcome

    def _is_settled(self, state: ArmState, now: float) -> bool:
        self._gripper.measure(state.gripper, state.stamp)
        if now < self._end or not (self._gripper.done(now) and self._is_there(state)):
            self._settled_since = None
            return False
        if self._settled_since is None:
            self._settled_since = state.stamp
        return state.stamp - self._settled_since >= self._config.settle

    def _is_there(self, state: ArmState) -> bool:
        """Written so that a NaN is not there."""
        assert self._command is not None
        limits = self._config
        distance, angle = geometry.errors(state.pose, self._command.target)
        return (
            distance <= limits.position_tolerance
            and angle <= limits.rotation_tolerance
            and math.hypot(*state.linear_velocity) <= limits.rest_linear
            and math.hypot(*state.angular_velocity) <= limits.rest_angular
        )
