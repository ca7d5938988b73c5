"""What a training works with, checked before its first step: checkpoint, examples, statistics, disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openvla_ros.errors import TrainingError
from openvla_ros.policy.checkpoint import read_json, resolve_checkpoint
from openvla_ros.policy.openvla.config import OpenVLAConfig, parse_config
from openvla_ros.policy.openvla.engine import find_device
from openvla_ros.policy.openvla.loading import expected_shapes, load_model
from openvla_ros.policy.openvla.memory import GB, free_bytes
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.precision import scheme_for
from openvla_ros.policy.openvla.processor import Processor
from openvla_ros.policy.openvla.saving import checkpoint_bytes
from openvla_ros.policy.openvla.statistics import ActionStatistics, load_norm_stats
from openvla_ros.policy.openvla.tokens import ActionTokenizer
from openvla_ros.training.examples import Examples, choose_statistics, hold_out, make_examples
from openvla_ros.training.forward import ActionLogits
from openvla_ros.training.frames import Frames, read_frames
from openvla_ros.training.lora import add_adapters
from openvla_ros.training.settings import TrainSettings

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Job:
    """base: folder of the checkpoint to start from. entry: statistics that the new one gets under unnorm_key."""

    settings: TrainSettings
    base: Path
    config: OpenVLAConfig
    processor: Processor
    tokenizer: ActionTokenizer
    unnorm_key: str
    entry: dict[str, Any]
    statistics: ActionStatistics
    examples: Examples
    held_out: Examples
    left_out: dict[str, int]


def prepare(
    settings: TrainSettings, frames: Frames | None = None, progress: Callable[[str], None] = lambda _: None
) -> Job:
    """Everything but the weights. frames: to train on instead of ``settings.data``.

    progress: called with each episode that is read. Raises OpenVLAError for whatever would make the training fail.
    """
    base = resolve_checkpoint(settings.model)
    raw = read_json(base / "config.json")
    config = parse_config(raw)
    processor = Processor(base, config)
    tokenizer = ActionTokenizer(config.action_vocab_size, config.n_action_bins)
    if frames is None:
        frames = read_frames(settings, processor.image.resized, progress)
    norm_stats = load_norm_stats(base, raw) if settings.statistics == "checkpoint" else {}
    key, entry = choose_statistics(settings.statistics, settings.unnorm_key, frames, settings.data, norm_stats)
    examples = make_examples(frames, processor.text, tokenizer, entry, config.llama.eos_token_id)
    _check_lengths(config, examples, frames)
    mine, held = hold_out(frames, settings.held_out_share, settings.seed)
    if len(held) > settings.held_out_frames:  # evenly spread over the episodes
        held = held[np.linspace(0, len(held) - 1, settings.held_out_frames).astype(int)]
    return Job(
        settings=settings,
        base=base,
        config=config,
        processor=processor,
        tokenizer=tokenizer,
        unnorm_key=key,
        entry=entry,
        statistics=ActionStatistics.from_entry(key, entry),
        examples=examples.select(mine),
        held_out=examples.select(held),
        left_out=frames.left_out,
    )


def load_module(job: Job, device: torch.device) -> ActionLogits:
    """The model on its device, with what is to be trained requiring gradients."""
    settings = job.settings
    base = "bf16" if _base_dtype(settings, device) is torch.bfloat16 else "float32"
    model: OpenVLA = load_model(job.base, job.config, device, scheme_for(base, device))
    if settings.lora is not None:
        add_adapters(model, settings.lora, settings.freeze_vision, settings.seed)
    else:
        model.requires_grad_(True)
        model.vision_backbone.requires_grad_(not settings.freeze_vision)
    return ActionLogits(model, job.processor.image).to(device)


def _base_dtype(settings: TrainSettings, device: torch.device) -> torch.dtype:
    """Trained weights are float32. Those that LoRA leaves alone may be half as large."""
    return torch.float32 if settings.lora is None else compute_dtype(settings, device)


def compute_dtype(settings: TrainSettings, device: torch.device) -> torch.dtype:
    """What passes are computed in."""
    if settings.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[settings.precision]


def device_of(settings: TrainSettings, local_rank: int | None) -> torch.device:
    """The device of this process, of which there may be one for each GPU."""
    if local_rank is not None and settings.device == "auto" and torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    return find_device(settings.device)


def check_memory(job: Job, device: torch.device) -> None:
    """Raise TrainingError where the device could not even hold weights, gradients and the optimizer's two moments."""
    settings = job.settings
    trained = frozen = 0
    for name, shape in expected_shapes(job.config)[0].items():
        if settings.lora is not None or (settings.freeze_vision and name.startswith("vision_backbone.")):
            frozen += prod(shape)
        else:
            trained += prod(shape)
    needed = 4 * 4 * trained + _base_dtype(settings, device).itemsize * frozen
    free = free_bytes(device)
    if needed > free:
        raise TrainingError(
            f"training needs more than {needed / GB:.1f} GB on {device}, {free / GB:.1f} GB are free"
            f"{': train with lora' if settings.lora is None else ''}"
        )


def check_disk(job: Job, trained: int) -> None:
    """Raise TrainingError where checkpoints and states, of so many trained parameters, would not fit."""
    settings = job.settings
    one = checkpoint_bytes(job.config, DTYPES[settings.save_dtype])
    # Weights and AdamW's two moments in float32; the new ones are there before the old ones go.
    state = 3 * 4 * trained
    needed = (settings.keep_checkpoints + 1) * one + 2 * state
    settings.output.mkdir(parents=True, exist_ok=True)
    replaced = [f for part in ("state", "step-*") for f in settings.output.glob(f"{part}/**/*") if f.is_file()]
    free = shutil.disk_usage(settings.output).free + sum(f.stat().st_size for f in replaced)
    if needed > free:
        raise TrainingError(
            f"checkpoints and the state to go on from need {needed / 1e9:.1f} GB in {settings.output}, "
            f"{free / 1e9:.1f} GB are free: give another output, or lower keep_checkpoints"
        )


def _check_lengths(config: OpenVLAConfig, examples: Examples, frames: Frames) -> None:
    room = config.llama.max_position_embeddings - config.patches - examples.targets.shape[1] + 1
    for prompt, instruction in zip(examples.prompts, frames.instructions, strict=True):
        if len(prompt) > room:
            raise TrainingError(
                f"the instruction {instruction[:60]!r}... has {len(prompt)} tokens, the model has room for {room}"
            )
