"""A checkpoint's action statistics per dataset (norm_stats): choosing one, and un-normalising with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import CheckpointError, ConfigError
from openvla_ros.policy.checkpoint import read_json


def load_norm_stats(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """{dataset: statistics} of a checkpoint.

    A dataset_statistics.json beside the weights replaces config.json's norm_stats: fine-tuning writes the first and
    leaves the second, with the datasets of the model that it started from.
    """
    path = folder / "dataset_statistics.json"
    norm_stats = read_json(path) if path.is_file() else config.get("norm_stats")
    if not isinstance(norm_stats, dict) or not norm_stats:
        raise CheckpointError(f"{folder} has no action statistics: neither dataset_statistics.json nor norm_stats")
    return norm_stats


def choose_key(norm_stats: Mapping[str, Any], unnorm_key: str | None) -> str:
    """The dataset to un-normalise with; None will do where there is one. Raises ConfigError listing the keys."""
    if unnorm_key is None:
        if len(norm_stats) == 1:
            return next(iter(norm_stats))
        raise ConfigError(f"unnorm_key is not set and the checkpoint has several; set one of {', '.join(norm_stats)}")
    if unnorm_key not in norm_stats:
        raise ConfigError(f"unnorm_key '{unnorm_key}' is not in this checkpoint; it has {', '.join(norm_stats)}")
    return unnorm_key


@dataclass(frozen=True)
class ActionStatistics:
    """The 1st and 99th percentile (n,) of a dataset's actions, and which dimensions (n,) were normalised by them."""

    q01: NDArray[np.float64]
    q99: NDArray[np.float64]
    mask: NDArray[np.bool_]

    @classmethod
    def from_entry(cls, unnorm_key: str, entry: Mapping[str, Any]) -> ActionStatistics:
        """Of one dataset's part of norm_stats. Without a mask all dimensions are normalised. Raises CheckpointError."""
        try:
            action = entry["action"]
            q01, q99 = (np.array(action[name], dtype=np.float64) for name in ("q01", "q99"))
            mask = np.array(action.get("mask", [True] * q01.size))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the statistics of dataset '{unnorm_key}' have no usable action: {error!r}"
            ) from error
        if q01.ndim != 1 or not q01.size or not (q01.shape == q99.shape == mask.shape) or mask.dtype != np.bool_:
            raise CheckpointError(
                f"the action statistics of dataset '{unnorm_key}' must be lists of one length, mask of booleans; they "
                f"have shapes q01 {q01.shape}, q99 {q99.shape}, mask {mask.shape} of {mask.dtype}"
            )
        if not (np.isfinite(q01).all() and np.isfinite(q99).all()):
            raise CheckpointError(f"the action statistics of dataset '{unnorm_key}' are not finite")
        return cls(q01, q99, mask)

    @property
    def dim(self) -> int:
        return int(self.q01.size)

    def unnormalize(self, normalized: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw actions (..., n) in the dataset's own units: q01 at -1, q99 at 1; unmasked dimensions unchanged."""
        return np.where(self.mask, 0.5 * (normalized + 1) * (self.q99 - self.q01) + self.q01, normalized)

    def check_drivable(self, unnorm_key: str) -> None:
        """Raise CheckpointError unless this is one arm's 7 numbers with ranges the right way round."""
        if self.dim != 7:
            raise CheckpointError(f"actions of '{unnorm_key}' have {self.dim} dimensions; one arm needs 7")
        if np.any(self.q99[self.mask] < self.q01[self.mask]):
            raise CheckpointError(f"the statistics of '{unnorm_key}' have q99 below q01: it would reverse the motion")
