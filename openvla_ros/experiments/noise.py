"""Noise on executed actions: so that demonstrations show how to come back."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from openvla_ros.experiments.lockstep import Observation, PolicyFunction
from openvla_ros.types import Action


class Noise(BaseModel):
    """How executed actions differ from those that were meant.

    A trembling in every action, now and then a push that takes the hand elsewhere, or a gripper that lets go or closes
    on nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    translation: float = Field(0.004, ge=0, le=0.05, description="standard deviation of each component [m]")
    rotation: float = Field(0.03, ge=0, le=0.25, description="standard deviation of each component [rad]")
    push_share: float = Field(0.03, ge=0, le=1, description="of actions that are pushed")
    push: float = Field(0.02, ge=0, le=0.05, description="standard deviation of each component of a push [m]")
    gripper_share: float = Field(0.01, ge=0, le=1, description="of actions whose gripper does the opposite")

    def disturb(self, action: Action, rng: np.random.Generator) -> Action:
        """The action as it is executed."""
        spread = self.push if rng.random() < self.push_share else self.translation
        gripper = 1.0 - action.gripper if rng.random() < self.gripper_share else action.gripper
        return Action(
            action.translation + rng.normal(0.0, spread, 3),
            action.rotation + rng.normal(0.0, self.rotation, 3),
            gripper,
        )

    def on(self, policy: PolicyFunction, rng: np.random.Generator) -> PolicyFunction:
        """A policy whose actions are disturbed."""

        def disturbed(observation: Observation) -> Action:
            return self.disturb(policy(observation), rng)

        return disturbed
