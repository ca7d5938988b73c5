"""Demonstrations of a few seconds, checkpoints small enough to be trained in a test, and settings that say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openvla_ros.experiments.demonstrations import DemoSettings, record
from openvla_ros.policy.openvla.creation import LlamaSize, ModelSize, TowerSize, create_checkpoint
from openvla_ros.training.frames import Frames, read_frames
from openvla_ros.training.settings import TrainSettings

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = ("lift the red block", "put the blue block on the plate")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three demonstrations: two lifts, one placing; some noisy, so that what was done is not what is to be learned."""
    folder = tmp_path_factory.mktemp("demos") / "small"
    settings = DemoSettings(name="small", image_size=(64, 48), instructions=INSTRUCTIONS, noisy_share=1.0)
    assert record(folder, settings, 3, workers=1).recorded == 3
    return folder


@pytest.fixture(scope="session")
def tiny() -> Path:
    return ROOT / "resource" / "openvla-tiny"


@pytest.fixture(scope="session")
def golden() -> Path:
    return ROOT / "test" / "data" / "golden"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, demos: Path) -> Path:
    """A new checkpoint for images of 56 px: 16 patches, 2 layers."""
    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    size = ModelSize(56, TowerSize(32, 3, 2), TowerSize(24, 3, 2), LlamaSize(32, 64, 2, 2))
    statistics = json.loads((demos / "dataset_statistics.json").read_text())
    create_checkpoint(folder, size, INSTRUCTIONS, statistics, std=0.1, dtype=torch.float32)
    return folder


@pytest.fixture
def settings(small: Path, demos: Path, tmp_path: Path) -> Callable[..., TrainSettings]:
    """Settings of a training of a second or two, with changes."""

    def make(**changes: Any) -> TrainSettings:
        values: dict[str, Any] = {
            "model": str(small),
            "data": [demos],
            "output": tmp_path / "training",
            "steps": 6,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "save_dtype": "float32",
            "held_out_share": 0.0,
            "log_every": 2,
            "checkpoint_every": 3,
            "evaluate_every": 3,
            "device": "cpu",
        }
        return TrainSettings.model_validate(values | changes)

    return make


@pytest.fixture(scope="session")
def frames(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """All transitions of the demonstrations, images enlarged to 56 px."""
    settings = TrainSettings(model="", data=(demos,), output=tmp_path_factory.mktemp("frames"))
    return read_frames(settings, enlarge)


def enlarge(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((56, 56)))


class Silence:
    """Implements `openvla_ros.training.loop.TrainingWatcher`; keeps what it was told."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.began: list[int] = []
        self.rows: list[dict[str, str]] = []
        self.folders: list[Path] = []

    def reading(self, episode: str) -> None:
        self.read.append(episode)

    def begin(self, job: object, trained: int, step: int, device: torch.device) -> None:
        self.began.append(step)

    def step(self, step: int, row: dict[str, str] | None) -> None:
        if row is not None:
            self.rows.append(row)

    def saved(self, folder: Path) -> None:
        self.folders.append(folder)


@pytest.fixture
def watcher() -> Silence:
    return Silence()
