"""The OpenVLA policy: one image and one instruction to one action, or a PolicyError."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvla_ros.errors import PolicyError
from openvla_ros.policy.base import Prediction, check_observation
from openvla_ros.policy.checkpoint import fingerprint, read_json
from openvla_ros.policy.openvla.config import OpenVLAConfig
from openvla_ros.policy.openvla.engine import WARM_UP_INSTRUCTION, Engine
from openvla_ros.policy.openvla.loading import weight_files
from openvla_ros.policy.openvla.model import Decoded
from openvla_ros.policy.openvla.statistics import ActionStatistics, choose_key, load_norm_stats
from openvla_ros.policy.semantics import ActionSemantics, semantics_for


@dataclass(frozen=True)
class Dataset:
    """A dataset of the checkpoint whose actions may drive an arm."""

    unnorm_key: str
    statistics: ActionStatistics
    semantics: ActionSemantics


def choose_dataset(folder: Path, unnorm_key: str | None) -> Dataset:
    """The dataset of a checkpoint folder that ``unnorm_key`` names, to drive an arm with.

    Raises ConfigError for a missing or unknown key, CheckpointError for statistics or semantics that can't drive one.
    """
    norm_stats = load_norm_stats(folder, read_json(folder / "config.json"))
    key = choose_key(norm_stats, unnorm_key)
    statistics = ActionStatistics.from_entry(key, norm_stats[key])
    statistics.check_drivable(key)
    return Dataset(key, statistics, semantics_for(key, norm_stats[key]))


class OpenVLAPolicy:
    """Implements `openvla_ros.policy.base.Policy` for OpenVLA checkpoints."""

    def __init__(self, engine: Engine, name: str, dataset: Dataset) -> None:
        self.engine = engine
        self.name = name
        self.unnorm_key = dataset.unnorm_key
        self.statistics = dataset.statistics
        self.semantics = dataset.semantics

    def predict(self, image: NDArray[np.uint8], instruction: str) -> Prediction:
        """The action for one (H, W, 3) uint8 RGB image.

        Raises PolicyError for an unusable image or instruction, logits that are not finite, and an end-of-sequence
        token among the actions.
        """
        check_observation(image, instruction)
        engine, clock = self.engine, _StageClock(self.engine.device)
        pixels, ids = engine.pixel_values(image), engine.input_ids(instruction)
        cache = engine.cache_for(ids.shape[1], self.statistics.dim)
        clock.stage("preprocess")
        embeddings = engine.model.image_embeddings(pixels)
        clock.stage("vision")
        first_logits = engine.model.prefill(embeddings, ids, cache)
        clock.stage("prefill")
        token_ids = checked_tokens(engine.model.decode(first_logits, self.statistics.dim, cache), engine.config)
        clock.stage("decode")
        normalized = engine.action_tokenizer.decode(token_ids)
        return Prediction(
            action=self.semantics.to_action(self.statistics.unnormalize(normalized)),
            normalized=normalized,
            token_ids=token_ids,
            timings=clock.timings(),
            outside_action_tokens=engine.action_tokenizer.count_outside(token_ids),
        )

    def warm_up(self) -> None:
        """One prediction on a synthetic image, and the check that the model looks at its image. Raises PolicyError."""
        self.engine.check_sees()
        self.predict(np.zeros((480, 640, 3), dtype=np.uint8), WARM_UP_INSTRUCTION)

    def describe(self) -> dict[str, Any]:
        """What runs, in plain values for logs and episode records."""
        return {
            "checkpoint": self.name,
            "model_type": "openvla",
            "weights_fingerprint": fingerprint(weight_files(self.engine.folder)),
            "precision": self.engine.precision,
            "device": _device_name(self.engine.device),
            "threads": torch.get_num_threads(),
            "unnorm_key": self.unnorm_key,
            "statistics": {k: v.tolist() for k, v in vars(self.statistics).items()},
            "semantics": self.semantics.model_dump(),
            "versions": {name: version(name) for name in ("torch", "tokenizers", "safetensors", "pillow", "numpy")},
        }


def load(
    folder: Path, *, name: str, unnorm_key: str | None, device: str, precision: str, threads: int
) -> OpenVLAPolicy:
    """Load an OpenVLA checkpoint folder as a policy; see `openvla_ros.policy.registry.load_policy`."""
    dataset = choose_dataset(folder, unnorm_key)  # before the weights: a wrong key should not take minutes to say so
    return OpenVLAPolicy(Engine(folder, device=device, precision=precision, threads=threads), name, dataset)


def checked_tokens(decoded: Decoded, config: OpenVLAConfig) -> NDArray[np.int64]:
    """The generated ids (n,), unless they can't be an action. Raises PolicyError."""
    if not math.isfinite(float(decoded.logits.sum())):  # NaN and infinity survive a sum, far cheaper than isfinite
        raise PolicyError("the model's logits are not finite: no action can be read from them")
    token_ids: NDArray[np.int64] = decoded.token_ids.cpu().numpy()
    if config.llama.eos_token_id in token_ids:
        at = int(np.argmax(token_ids == config.llama.eos_token_id))
        raise PolicyError(
            f"the model ended its output after {at} of {token_ids.size} action tokens: this is not an action. Check "
            f"that the unnorm_key's dimensions and the instruction fit the checkpoint"
        )
    return token_ids


class _StageClock:
    """Wall time by stage. Waits for the device at every border, so that a stage is charged with its own work."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._start = self._last = time.perf_counter()
        self._timings: dict[str, float] = {}

    def stage(self, name: str) -> None:
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
        now = time.perf_counter()
        self._timings[name] = now - self._last
        self._last = now

    def timings(self) -> dict[str, float]:
        return {**self._timings, "total": time.perf_counter() - self._start}


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
