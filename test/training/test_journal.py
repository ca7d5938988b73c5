"""train.csv: one history, however often the training was cut off."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from openvla_ros.errors import TrainingError
from openvla_ros.training.journal import CSV, PLOT, Journal
from openvla_ros.training.objective import Scores

SCORES = Scores(4, torch.tensor(8.0), torch.arange(7), torch.full((7,), 0.4))


def steps(folder: Path) -> list[str]:
    with (folder / CSV).open() as file:
        return [row["step"] for row in csv.DictReader(file)]


def test_rows_of_steps_that_are_made_again_are_replaced(tmp_path: Path) -> None:
    """A kill comes after rows that the state does not know of: kept, they would stand there twice."""
    before = Journal(tmp_path, 0)
    for step in (10, 20, 30):
        before.add(step, "train", SCORES, learning_rate=0.1)
    with (tmp_path / CSV).open("a") as file:
        file.write("40,train,0.")  # as far as it came
    after = Journal(tmp_path, 20)
    assert steps(tmp_path) == ["10", "20"]
    after.add(30, "held_out", SCORES)
    assert steps(tmp_path) == ["10", "20", "30"]


def test_a_row_holds_means(tmp_path: Path) -> None:
    row = Journal(tmp_path, 0).add(10, "train", SCORES)
    assert (row["loss"], row["token_accuracy"]) == ("2", "0.75")
    assert (row["accuracy_z"], row["l1_gripper"]) == ("0.5", "0.1")


def test_a_plot_of_nothing_yet_is_a_plot(tmp_path: Path) -> None:
    Journal(tmp_path, 0).draw()
    assert (tmp_path / PLOT).read_bytes().startswith(b"\x89PNG")


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / CSV).write_text("epoch,error\n1,2\n")
    with pytest.raises(TrainingError, match="move it away"):
        Journal(tmp_path, 0)
    assert (tmp_path / CSV).read_text() == "epoch,error\n1,2\n"
