"""train.csv and train.png: how a training goes, rewritten as it goes."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from openvla_ros.errors import TrainingError
from openvla_ros.recording.export.trajectory import ACTION
from openvla_ros.training.objective import Scores

CSV, PLOT = "train.csv", "train.png"
Split = Literal["train", "held_out"]

COLUMNS = (
    "step",
    "split",
    "loss",
    "token_accuracy",
    *(f"accuracy_{name}" for name in ACTION),
    *(f"l1_{name}" for name in ACTION),
    "learning_rate",
    "gradient_norm",
    "samples_per_s",
)


class Journal:
    """One row for the steps since the row before, and one for each measurement on held-out episodes.

    accuracy: share of right tokens, each given the right ones before it. l1: mean distance of the likeliest tokens'
    action from the label, in m, rad and openings of the gripper.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Of a training that goes on after ``step``: rows of later steps, which are about to be made again, go."""
        self._file, self._plot = folder / CSV, folder / PLOT
        self.rows = [row for row in _read(self._file) if int(row["step"]) <= step]
        draft = self._file.with_suffix(".part")
        with draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        draft.replace(self._file)

    def add(self, step: int, split: Split, scores: Scores, **more: float) -> dict[str, str]:
        """A row of means, with ``more`` columns."""
        loss, accuracy, l1 = scores.means()
        values = {
            "loss": loss,
            "token_accuracy": float(accuracy.mean()),
            **{f"accuracy_{name}": float(value) for name, value in zip(ACTION, accuracy, strict=True)},
            **{f"l1_{name}": float(value) for name, value in zip(ACTION, l1, strict=True)},
            **more,
        }
        row = {"step": str(step), "split": split, **{name: f"{value:.6g}" for name, value in values.items()}}
        self.rows.append(row)
        with self._file.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
        return row

    def draw(self) -> None:
        """Rewrite the plot."""
        # Not pyplot: its state would be the whole process's.
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 7), layout="constrained")
        axes = figure.subplots(2, 3).flat
        for axis, (title, columns) in zip(axes, _PANELS.items(), strict=True):
            for split, style in (("train", "-"), ("held_out", "o--")):
                _lines(axis, [row for row in self.rows if row["split"] == split], columns, split, style)
            axis.set_title(title)
            axis.set_xlabel("step")
            if len(columns) > 1:
                axis.legend(fontsize="small")
        draft = self._plot.with_suffix(".part")
        figure.savefig(draft, format="png", dpi=100)
        draft.replace(self._plot)


_PANELS: Mapping[str, Sequence[str]] = {
    "loss (o: held out)": ("loss",),
    "share of right tokens (o: held out)": ("token_accuracy",),
    "share of right tokens by dimension": tuple(f"accuracy_{name}" for name in ACTION),
    "L1 of translation [m]": tuple(f"l1_{name}" for name in ACTION[:3]),
    "L1 of rotation [rad]": tuple(f"l1_{name}" for name in ACTION[3:6]),
    "L1 of the gripper": ("l1_gripper",),
}


def _lines(axis: object, rows: list[dict[str, str]], columns: Sequence[str], split: str, style: str) -> None:
    steps = [int(row["step"]) for row in rows]
    for i, column in enumerate(columns):
        label = column.partition("_")[2] if split == "train" else None
        values = [float(row[column] or math.nan) for row in rows]
        axis.plot(steps, values, style, color=f"C{i}", markersize=3, linewidth=1, label=label)  # type: ignore[attr-defined]


def _read(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="") as lines:
        reader = csv.DictReader(lines)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise TrainingError(f"{file} is not of this kind of training: move it away")
        return [row for row in reader if None not in row.values()]  # a row that was cut off
