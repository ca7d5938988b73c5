"""What the numbers of a dataset's actions mean, declared once per unnorm_key, and their conversion into an Action.

Un-normalised OpenVLA outputs are in whatever its training data used: metres or millimetres or a controller's own
units, Euler angles or rotation vectors, deltas or absolute poses. Statistics can't tell which. So a dataset drives an
arm only if its meaning is declared: here for those that are known, or by the user beside the statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.spatial.transform import Rotation

from openvla_ros.errors import CheckpointError
from openvla_ros.types import Action

ENTRY = "action_semantics"  # the key beside "action" in dataset_statistics.json or config.json's norm_stats


class ActionSemantics(BaseModel):
    """The meaning of a raw action (x, y, z, three rotation numbers, gripper) of one dataset.

    frame, kind: what the package drives, a delta of the end effector in the robot's base frame. Absolute poses and
    deltas in the tool frame can't be declared. The rotation is applied from the left: R_new = R_delta R_old.
    rotation: 'rpy_fixed_axes' is Rz(yaw) Ry(pitch) Rx(roll); 'rpy_moving_axes' is Rx(roll) Ry(pitch) Rz(yaw);
    'rotation_vector' is axis times angle.
    translation_unit_m, rotation_unit_rad: size of one raw unit (0.001 for mm, 0.0174533 for degrees).
    gripper_open, gripper_closed: raw values of the absolute gripper target. control_hz: rate of the training data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    frame: Literal["base"] = "base"
    kind: Literal["delta_end_effector"] = "delta_end_effector"
    rotation: Literal["rpy_fixed_axes", "rpy_moving_axes", "rotation_vector"]
    translation_unit_m: float = Field(default=1.0, gt=0.0)
    rotation_unit_rad: float = Field(default=1.0, gt=0.0)
    gripper_open: float = 1.0
    gripper_closed: float = 0.0
    control_hz: float = Field(gt=0.0)

    @model_validator(mode="after")
    def _gripper_has_a_range(self) -> ActionSemantics:
        if self.gripper_open == self.gripper_closed:
            raise ValueError("gripper_open and gripper_closed are the same value")
        return self

    def to_action(self, raw: NDArray[np.float64]) -> Action:
        """The Action that a raw un-normalised vector (7,) stands for. The gripper is held to its range [0, 1]."""
        gripper = (float(raw[6]) - self.gripper_closed) / (self.gripper_open - self.gripper_closed)
        return Action(
            translation=raw[:3] * self.translation_unit_m,
            rotation=self._roll_pitch_yaw(raw[3:6] * self.rotation_unit_rad),
            gripper=min(max(gripper, 0.0), 1.0),
        )

    def _roll_pitch_yaw(self, angles: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.rotation == "rpy_fixed_axes":
            return angles
        if self.rotation == "rpy_moving_axes":
            return Rotation.from_euler("XYZ", angles).as_euler("xyz")
        return Rotation.from_rotvec(angles).as_euler("xyz")


# Robosuite's OSC_POSE, which LIBERO's actions command: an input of 1 is 0.05 m or 0.5 rad, axis-angle, in base axes.
_LIBERO = ActionSemantics(rotation="rotation_vector", translation_unit_m=0.05, rotation_unit_rad=0.5, control_hz=20.0)
DECLARED: dict[str, ActionSemantics] = {
    "bridge_orig": ActionSemantics(rotation="rpy_fixed_axes", control_hz=5.0),
    "fractal20220817_data": ActionSemantics(rotation="rpy_fixed_axes", control_hz=3.0),
    **{
        f"libero_{suite}{suffix}": _LIBERO
        for suite in ("spatial", "object", "goal", "10", "90")
        for suffix in ("", "_no_noops")
    },
}

# Released datasets whose statistics show that they are not plain deltas in m and rad, or not complete.
_TRAPS: dict[str, str] = {
    "ucsd_kitchen_dataset_converted_externally_to_rlds": "its numbers are millimetres and degrees",
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": "its numbers look like absolute poses",
    "toto": "its numbers look like absolute poses and its gripper never moves",
    "berkeley_cable_routing": "its gripper never moves",
    "jaco_play": "it never rotates",
    "cmu_stretch": "its rotations have no range",
    "kuka": "its rotations have no range",
    "austin_buds_dataset_converted_externally_to_rlds": "its rotations have no range",
    "austin_sailor_dataset_converted_externally_to_rlds": "its rotations have no range",
    "austin_sirius_dataset_converted_externally_to_rlds": "its rotations have no range",
}


def semantics_for(unnorm_key: str, entry: Mapping[str, Any]) -> ActionSemantics:
    """The declared meaning of a dataset's actions: its own entry's declaration, else the one known for its name.

    entry: the dataset's part of norm_stats. Raises CheckpointError where nothing is declared or it is not valid.
    """
    declared = entry.get(ENTRY)
    if declared is not None:
        try:
            return ActionSemantics.model_validate(declared)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or ENTRY}: {e['msg']}" for e in error.errors())
            raise CheckpointError(f"'{ENTRY}' of dataset '{unnorm_key}' is not valid: {problems}") from error
    if unnorm_key in DECLARED:
        return DECLARED[unnorm_key]
    reason = f" ({_TRAPS[unnorm_key]})" if unnorm_key in _TRAPS else ""
    raise CheckpointError(
        f"it is not declared what the actions of '{unnorm_key}' mean{reason}, so they can't drive an arm. "
        f"Known without declaration: {', '.join(DECLARED)}. If you know that they are deltas of the end effector in "
        f"the base frame, say so in the checkpoint's dataset_statistics.json, beside '{unnorm_key}'s \"action\", e.g. "
        f'"{ENTRY}": {{"rotation": "rpy_fixed_axes", "translation_unit_m": 1.0, "rotation_unit_rad": 1.0, '
        f'"gripper_open": 1.0, "gripper_closed": 0.0, "control_hz": 5.0}}'
    )
