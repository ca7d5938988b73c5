"""The OpenVLA policy: one image and one instruction to one action, or a PolicyError."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvla_ros.errors import PolicyError
from openvla_ros.policy.base import Details, Prediction, check_observation
from openvla_ros.policy.checkpoint import fingerprint, read_json
from openvla_ros.policy.openvla.decoding import Decoded, Ids
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.loading import weight_files
from openvla_ros.policy.openvla.statistics import ActionStatistics, choose_key, load_norm_stats
from openvla_ros.policy.openvla.warm_up import warm_up
from openvla_ros.policy.semantics import ActionSemantics, semantics_for
from openvla_ros.policy.stage_clock import StageClock


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

    def __init__(self, engine: Engine, name: str, dataset: Dataset, details: bool = False) -> None:
        self.engine = engine
        self.name = name
        self.unnorm_key = dataset.unnorm_key
        self.statistics = dataset.statistics
        self.semantics = dataset.semantics
        self.details = details
        self._draft: Ids | None = None  # (B, n) tokens of the last predictions

    def predict(self, image: NDArray[np.uint8], instruction: str) -> Prediction:
        """The action for one (H, W, 3) uint8 RGB image.

        Raises PolicyError for an unusable image or instruction, logits that are not finite, and an end-of-sequence
        token among the actions.
        """
        return self.predict_batch([image], [instruction])[0]

    def predict_batch(self, images: Sequence[NDArray[np.uint8]], instructions: Sequence[str]) -> list[Prediction]:
        """An action for each (H, W, 3) uint8 RGB image and instruction, in one go where the precision allows it.

        The tokens are those of single predictions, in float32 always; in other precisions another batch size may round
        another way. One unusable input refuses the batch. Raises PolicyError as predict does.
        """
        if len(images) != len(instructions) or not images:
            raise PolicyError(f"{len(images)} images and {len(instructions)} instructions; give one of each, or more")
        for image, instruction in zip(images, instructions, strict=True):
            check_observation(image, instruction)
        if len(images) > 1 and not self.engine.scheme.rows_independent:
            return [self._predict([image], [text])[0] for image, text in zip(images, instructions, strict=True)]
        return self._predict(images, instructions)

    def _predict(self, images: Sequence[NDArray[np.uint8]], instructions: Sequence[str]) -> list[Prediction]:
        engine, clock = self.engine, StageClock(self.engine.device)
        draft = self._draft if self._draft is not None and len(self._draft) == len(images) else None
        pixels, prompts = engine.pixel_values(images), [engine.input_ids(text) for text in instructions]
        clock.stage("preprocess")
        embeddings = engine.image_embeddings(pixels)
        clock.stage("vision")
        decoded = engine.decode(embeddings, prompts, self.statistics.dim, draft, clock.stage)
        token_ids: Ids = decoded.token_ids.cpu().numpy()
        timings = clock.timings()
        self._draft = token_ids
        for ids in token_ids:
            self._refuse_end(ids)
        details = self._details(decoded, prompts) if self.details else [None] * len(images)
        return [
            self._prediction(
                ids,
                timings=timings,
                passes=decoded.passes,
                draft_accepted=None if draft is None or engine.decoding != "draft" else _agreement(draft[row], ids),
                details=details[row],
            )
            for row, ids in enumerate(token_ids)
        ]

    def _prediction(self, token_ids: Ids, **more: Any) -> Prediction:
        normalized = self.engine.action_tokenizer.decode(token_ids)
        return Prediction(
            action=self.semantics.to_action(self.statistics.unnormalize(normalized)),
            normalized=normalized,
            token_ids=token_ids,
            outside_action_tokens=self.engine.action_tokenizer.count_outside(token_ids),
            **more,
        )

    def _details(self, decoded: Decoded, prompts: Sequence[Ids]) -> list[Details | None]:
        log = torch.log_softmax(decoded.logits.double(), dim=-1)
        chosen = log.gather(2, decoded.token_ids[..., None])[..., 0].exp().cpu().numpy()
        entropies = torch.special.entr(log.exp()).sum(dim=-1).cpu().numpy()
        second = self.engine.decoder(prompts, self.statistics.dim).runner_up(decoded).cpu().numpy()
        actions = [self._prediction(ids, timings={}).action for ids in second]
        return [Details(*row) for row in zip(chosen, entropies, actions, strict=True)]

    def _refuse_end(self, token_ids: Ids) -> None:
        end = self.engine.config.llama.eos_token_id
        if end in token_ids:
            raise PolicyError(
                f"the model ended its output after {int(np.argmax(token_ids == end))} of {token_ids.size} action "
                f"tokens: this is not an action. Check that the unnorm_key's dimensions and the instruction fit the "
                f"checkpoint"
            )

    def warm_up(self, batch: int = 1) -> None:
        """Check the model on this device and record CUDA graphs, see `warm_up`. Raises PolicyError."""
        warm_up(self.engine, self.statistics.dim, batch)

    def close(self) -> None:
        """Free the model's memory."""
        self.engine.close()

    def describe(self) -> dict[str, Any]:
        """What runs, in plain values for logs and episode records."""
        return {
            "checkpoint": self.name,
            "model_type": "openvla",
            "weights_fingerprint": fingerprint(weight_files(self.engine.folder)),
            **self.engine.describe(),
            "unnorm_key": self.unnorm_key,
            "statistics": {k: v.tolist() for k, v in vars(self.statistics).items()},
            "semantics": self.semantics.model_dump(),
            "versions": {name: version(name) for name in ("torch", "tokenizers", "safetensors", "pillow", "numpy")},
        }


def load(
    folder: Path,
    *,
    name: str,
    unnorm_key: str | None,
    device: str,
    precision: str,
    threads: int,
    decoding: str,
    details: bool,
) -> OpenVLAPolicy:
    """Load an OpenVLA checkpoint folder as a policy; see `openvla_ros.policy.registry.load_policy`."""
    dataset = choose_dataset(folder, unnorm_key)  # before the weights: a wrong key should not take minutes to say so
    engine = Engine(folder, device=device, precision=precision, threads=threads, decoding=decoding)
    return OpenVLAPolicy(engine, name, dataset, details)


def _agreement(draft: Ids, token_ids: Ids) -> int:
    """How many leading tokens are the same."""
    return int(np.cumprod(draft == token_ids).sum())
