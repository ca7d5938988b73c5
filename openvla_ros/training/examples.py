"""Frames as examples of a checkpoint's own task: prompts and action tokens."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import CheckpointError, ConfigError, TrainingError
from openvla_ros.policy.checkpoint import read_json
from openvla_ros.policy.openvla.processor import TextProcessor
from openvla_ros.policy.openvla.saving import STATISTICS
from openvla_ros.policy.openvla.statistics import ActionStatistics, choose_key
from openvla_ros.policy.openvla.tokens import ActionTokenizer
from openvla_ros.policy.semantics import semantics_for
from openvla_ros.recording.export.statistics import statistics_entry
from openvla_ros.training.frames import Frames
from openvla_ros.types import Array

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Some examples, in arrays.

    images: (B, size, size, 3) uint8. ids: (B, T) prompt and all but the last target, zeros behind them; lengths: (B,)
    of the prompts. targets: (B, n + 1) action tokens and the end of the sequence. actions: (B, n) as labelled.
    numbers: (B,) which draw of the training each row is: what its augmentation depends on.
    """

    images: NDArray[np.uint8]
    ids: Integers
    lengths: Integers
    targets: Integers
    actions: Array
    numbers: Integers


@dataclass(frozen=True)
class Examples:
    """m examples of n-dimensional actions. A frame that is named several times is seen so much more often.

    images: (frames, size, size, 3) uint8. frame: (m,) row of images. prompt: (m,) index into prompts, which are token
    ids with BOS first. targets: (m, n + 1) token ids. actions: (m, n).
    """

    images: NDArray[np.uint8]
    frame: Integers
    prompts: Sequence[Integers]
    prompt: Integers
    targets: Integers
    actions: Array

    def __len__(self) -> int:
        return len(self.frame)

    def select(self, rows: Integers) -> Examples:
        """The examples of these rows (any integers below m, also several times)."""
        return replace(
            self,
            frame=self.frame[rows],
            prompt=self.prompt[rows],
            targets=self.targets[rows],
            actions=self.actions[rows],
        )

    def batch(self, rows: Integers, numbers: Integers) -> Batch:
        """The examples of these rows. Shorter prompts are followed by zeros, which no token in front of them sees."""
        targets = self.targets[rows]
        prompts = [self.prompts[i] for i in self.prompt[rows]]
        lengths = np.array([len(p) for p in prompts])
        # All prompts are given the room of the longest: the same example is computed alike in every batch.
        width = max(map(len, self.prompts)) + targets.shape[1] - 1
        ids = np.zeros((len(rows), width), dtype=np.int64)
        for row, prompt, target in zip(ids, prompts, targets, strict=True):
            row[: len(prompt)] = prompt
            row[len(prompt) : len(prompt) + len(target) - 1] = target[:-1]
        order = np.argsort(self.frame[rows])  # a file is read from its front to its end
        images = np.empty((len(rows), *self.images.shape[1:]), dtype=np.uint8)
        for i in order:
            images[i] = self.images[self.frame[rows[i]]]
        return Batch(images, ids, lengths, targets, self.actions[rows], numbers)


def make_examples(
    frames: Frames, text: TextProcessor, tokenizer: ActionTokenizer, entry: Mapping[str, Any], end: int
) -> Examples:
    """Every frame once. entry: statistics by which actions are normalised; end: token id of the end of a sequence.

    Raises TrainingError for actions that are not finite: they would become the token of +1.
    """
    if not np.isfinite(frames.actions).all():
        bad = int(frames.episode[np.argmin(np.isfinite(frames.actions).all(axis=1))])
        raise TrainingError(f"an action of episode {frames.episodes[bad]} is not finite")
    tokens = tokenizer.encode(normalize(frames.actions, entry))
    return Examples(
        images=frames.images,
        frame=np.arange(len(frames)),
        prompts=[text.input_ids(instruction) for instruction in frames.instructions],
        prompt=frames.instruction,
        targets=np.column_stack([tokens, np.full(len(tokens), end)]),
        actions=frames.actions,
    )


def normalize(actions: Array, entry: Mapping[str, Any]) -> Array:
    """(..., n) actions in [-1, 1] between q01 and q99 where the entry's mask says so, as OpenVLA was trained.

    A dimension of those that never changes in the data is 0. In OpenVLA also one that the mask leaves alone is: a
    gripper that is always open would be learned as closed. OpenVLA computes in float32, this in float64.
    """
    statistics = ActionStatistics.from_entry("", entry)
    low, high = statistics.q01, statistics.q99
    scaled = np.clip(2 * (actions - low) / (high - low + 1e-8) - 1, -1, 1)
    out: Array = np.where(statistics.mask, scaled, actions)
    smallest, largest = (np.array(entry["action"].get(name, default)) for name, default in (("min", 0), ("max", 1)))
    return np.where((smallest == largest) & statistics.mask, 0.0, out)


def hold_out(frames: Frames, share: float, seed: int) -> tuple[Integers, Integers]:
    """(rows to train on, rows held out): whole episodes. An episode stays on its side when others are added.

    Raises TrainingError where one side would be empty.
    """
    if not share:
        return np.arange(len(frames)), np.arange(0)
    # Nearly uniform on [0, 1), and a property of the episode alone.
    places = np.array([zlib.crc32(f"{seed} {name}".encode()) / 2**32 for name in frames.episodes])
    held = places < share
    if not held.any():
        held[np.argmin(places)] = True
    if held.all():
        raise TrainingError(
            f"held_out_share {share:g} of {len(frames.episodes)} episodes leaves none to train on: record more, or set "
            f"held_out_share to 0"
        )
    mine = held[frames.episode]
    return np.flatnonzero(~mine), np.flatnonzero(mine)


def choose_statistics(
    source: str, unnorm_key: str | None, frames: Frames, roots: Sequence[Path], norm_stats: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """(unnorm_key, its entry) to normalise by. source: as settings say. norm_stats: of the checkpoint.

    Raises ConfigError for a key that is missing or not there, CheckpointError for one that could not drive an arm.
    """
    if source == "data":
        key = unnorm_key or _name_of(roots)
        entry = statistics_entry(frames.actions, frames.proprio, len(frames.episodes), frames.control_hz)
    else:
        known = norm_stats if source == "checkpoint" else read_json(Path(source))
        key = choose_key(known, unnorm_key)
        entry = known[key]
    statistics = ActionStatistics.from_entry(key, entry)
    statistics.check_drivable(key)
    semantics = semantics_for(key, entry)
    if semantics.translation_unit_m != 1 or semantics.rotation_unit_rad != 1 or semantics.rotation != "rpy_fixed_axes":
        raise CheckpointError(
            f"the actions of '{key}' are in other units than the data, which are in m and rad, roll, pitch, yaw about "
            f"fixed axes: set statistics to data"
        )
    if semantics.control_hz != frames.control_hz:
        raise ConfigError(
            f"the data are of {frames.control_hz:g} Hz, '{key}' is of {semantics.control_hz:g} Hz, where a step is "
            f"another distance: set statistics to data, and unnorm_key to a name for them"
        )
    if (semantics.gripper_open, semantics.gripper_closed) != (1.0, 0.0):
        raise CheckpointError(
            f"the gripper of '{key}' is not 1 open and 0 closed, as in the data: set statistics to data"
        )
    return key, dict(entry)


def _name_of(roots: Sequence[Path]) -> str:
    """What the folders' own statistics call the data."""
    names = {key for root in roots for file in root.rglob(STATISTICS) for key in json.loads(file.read_text())}
    if len(names) != 1:
        raise ConfigError(
            f"unnorm_key is not set, and the data have {', '.join(sorted(names)) or 'no name'}: set it, to name them"
        )
    return names.pop()
