"""Statistics of a LeRobotDataset's features, in the layout of its stats.json; all of them exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from openvla_ros.images import RGB

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

Stats = dict[str, dict[str, list[Any]]]  # feature -> statistic -> value


def table_stats(table: pa.Table) -> Stats:
    """Of every column of numbers, or of lists of d numbers: lists of d values."""
    stats = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
        elif pa.types.is_struct(column.type):
            continue  # images: see Pixels
        else:
            values = column.to_numpy(zero_copy_only=False).reshape(-1, 1)
        found = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
        found |= {key: np.quantile(values, q, axis=0) for key, q in QUANTILES.items()}
        stats[name] = {key: value.tolist() for key, value in found.items()} | {"count": [len(values)]}
    return stats


class Pixels:
    """Of images, by colour, in 0..1: from how often each of the 256 values occurs. Every fourth row and column."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), dtype=np.int64)
        self._images = 0

    def count(self, rgb: RGB) -> None:
        self._images += 1
        for channel in range(3):
            self._counts[channel] += np.bincount(rgb[::4, ::4, channel].ravel(), minlength=256)

    def add(self, other: Pixels) -> None:
        self._counts += other._counts
        self._images += other._images

    def stats(self) -> dict[str, list[Any]]:
        """Lists of the shape (3, 1, 1)."""
        values = np.arange(256) / 255
        share = self._counts / self._counts.sum(axis=1, keepdims=True)
        mean = share @ values
        below = np.cumsum(share, axis=1)
        found = {
            "min": [values[counts.nonzero()[0][0]] for counts in self._counts],
            "max": [values[counts.nonzero()[0][-1]] for counts in self._counts],
            "mean": mean,
            "std": np.sqrt(np.maximum(share @ values**2 - mean**2, 0.0)),
        }
        found |= {key: [values[np.searchsorted(b, q)] for b in below] for key, q in QUANTILES.items()}
        return {key: np.reshape(v, (3, 1, 1)).tolist() for key, v in found.items()} | {"count": [self._images]}


def flat(stats: Stats) -> dict[str, list[Any]]:
    """As an episode's row holds them: "stats/FEATURE/STATISTIC"."""
    return {f"stats/{feature}/{name}": value for feature, found in stats.items() for name, value in found.items()}
