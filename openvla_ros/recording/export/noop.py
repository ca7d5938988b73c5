"""No-ops: steps that ask for no motion and leave the gripper as it is. They teach a policy to stand still.

The criterion is the one by which OpenVLA's LIBERO data were cleaned ("*_no_noops"), with thresholds in our units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from openvla_ros.types import Array


class NoopFilter(BaseModel):
    """Below all three thresholds an action is a no-op."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    translation_m: float = Field(1e-4, ge=0.0, description="length of the translation [m]")
    rotation_rad: float = Field(1e-3, ge=0.0, description="length of roll, pitch, yaw [rad]")
    gripper: float = Field(0.01, ge=0.0, description="change of the gripper target since the last kept action")

    def keep(self, actions: Array) -> NDArray[np.bool_]:
        """(n,) false for each no-op of the actions (n, 7) of one episode.

        The gripper is compared with the last action that was kept: slow closing, each step below the threshold, does
        not vanish. The first action has none before it: only its motion counts.
        """
        moves = np.linalg.norm(actions[:, :3], axis=1) >= self.translation_m
        moves |= np.linalg.norm(actions[:, 3:6], axis=1) >= self.rotation_rad
        kept = np.zeros(len(actions), dtype=np.bool_)
        last: float | None = None
        for i, gripper in enumerate(actions[:, 6]):
            if moves[i] or (last is not None and abs(gripper - last) >= self.gripper):
                kept[i] = True
                last = float(gripper)
        return kept
