"""Frames on disk: images, what the simulator knows about each, and the expert's answer to every instruction."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.images import RGB
from openvla_ros.policy.openvla.processor import ImageProcessor
from openvla_ros.sim.expert import View, expert_action
from openvla_ros.sim.tasks import TASKS
from openvla_ros.training.blocks.view import STATE, state_vector
from openvla_ros.types import Array

ABOUT = "about.json"


class Shard:
    """A folder of ``count`` frames that is being written; it counts once it is closed."""

    def __init__(self, folder: Path, count: int, instructions: Sequence[str], images: ImageProcessor) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._count, self._images = folder, count, images
        self._tasks = [TASKS[text] for text in instructions]
        shape = (count, images.size, images.size, 3)
        self._pixels = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
        self._actions = np.empty((count, len(self._tasks), 7))
        self._states = np.empty((count, len(STATE)))
        self._proprio = np.empty((count, 8))
        self.size = 0

    @property
    def full(self) -> bool:
        return self.size == self._count

    def add(self, image: RGB, view: View) -> None:
        """image: (H, W, 3) as the camera gives it."""
        i = self.size
        self._pixels[i] = self._images.resized(image)
        self._actions[i] = [expert_action(view, task).to_array() for task in self._tasks]
        self._states[i] = state_vector(view)
        self._proprio[i] = [*view.hand.position, *view.hand.quaternion, view.opening]
        self.size += 1

    def close(self, about: dict[str, Any]) -> None:
        self._pixels.flush()
        np.savez(self._folder / "arrays.npz", actions=self._actions, states=self._states, proprio=self._proprio)
        draft = self._folder / f"{ABOUT}.part"
        draft.write_text(json.dumps(about, indent=2) + "\n")
        os.replace(draft, self._folder / ABOUT)


def is_complete(folder: Path) -> bool:
    return (folder / ABOUT).is_file()


@dataclass(frozen=True)
class ShardFrames:
    """n frames of one or more shards.

    actions: (n, instructions, 7) of the expert, raw; states: (n, STATE); proprio: (n, 8); recent: index of the first
    frame of the newest source.
    """

    shards: list[NDArray[np.uint8]]
    starts: NDArray[np.int64]
    actions: Array
    states: Array
    proprio: Array
    recent: int

    @classmethod
    def open(cls, sources: Sequence[Sequence[Path]]) -> ShardFrames:
        """Of complete shards, source after source."""
        folders = [folder for source in sources for folder in source]
        arrays = []
        for folder in folders:
            with np.load(folder / "arrays.npz") as file:
                arrays.append({name: file[name] for name in file.files})
        counts = [len(a["states"]) for a in arrays]
        newest = sum(counts[: len(folders) - len(sources[-1])])
        joined = {name: np.concatenate([a[name] for a in arrays]) for name in ("actions", "states", "proprio")}
        shards = [np.load(folder / "images.npy", mmap_mode="r") for folder in folders]
        return cls(shards, np.cumsum([0, *counts]), **joined, recent=newest)

    def __len__(self) -> int:
        return len(self.states)

    def images(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(k, size, size, 3) of frames (k,)."""
        shard = np.searchsorted(self.starts, index, side="right") - 1
        return np.stack([self.shards[s][i - self.starts[s]] for s, i in zip(shard, index, strict=True)])
