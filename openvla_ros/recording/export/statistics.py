"""dataset_statistics.json: the statistics of all transitions, as OpenVLA computes and reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from openvla_ros.policy.semantics import ENTRY, ActionSemantics
from openvla_ros.recording.export.trajectory import ACTION, EpisodeTrajectory
from openvla_ros.types import Array

FILE_NAME = "dataset_statistics.json"


def dataset_statistics(trajectories: Sequence[EpisodeTrajectory], control_hz: float) -> dict[str, Any]:
    """One dataset's entry, of its trajectories."""
    return statistics_entry(
        np.concatenate([t.actions for t in trajectories]),
        np.concatenate([t.proprio for t in trajectories]),
        len(trajectories),
        control_hz,
    )


def statistics_entry(actions: Array, proprio: Array, trajectories: int, control_hz: float) -> dict[str, Any]:
    """One dataset's entry: action (n, 7) and proprio (n, 8) over all transitions, and how many there are.

    The mask says which dimensions are normalised: all but the gripper. OpenVLA casts to float32 first; here it is
    float64, which differs in the seventh digit. action_semantics is ours: what the numbers mean, so that a checkpoint
    that is fine-tuned on them may drive an arm (policy/semantics.py).
    """
    semantics = ActionSemantics(rotation="rpy_fixed_axes", control_hz=control_hz)
    return {
        "action": {**_numbers(actions), "mask": [name != "gripper" for name in ACTION]},
        "proprio": _numbers(proprio),
        "num_transitions": len(actions),
        "num_trajectories": trajectories,
        ENTRY: semantics.model_dump(),
    }


def _numbers(values: Array) -> dict[str, list[float]]:
    """Of the columns of (n, d). Percentiles are interpolated linearly, std is that of the whole population."""
    return {
        "mean": values.mean(axis=0).tolist(),
        "std": values.std(axis=0).tolist(),
        "max": values.max(axis=0).tolist(),
        "min": values.min(axis=0).tolist(),
        "q01": np.quantile(values, 0.01, axis=0).tolist(),
        "q99": np.quantile(values, 0.99, axis=0).tolist(),
    }
