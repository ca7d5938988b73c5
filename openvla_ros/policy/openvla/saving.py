"""A model back into a checkpoint folder in the official layout: what `loading` reads, transformers' tools open too.

The files hold every tensor of the released ones, also those that OpenVLA never uses.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from openvla_ros.errors import CheckpointError
from openvla_ros.policy.checkpoint import read_json
from openvla_ros.policy.openvla.config import OpenVLAConfig
from openvla_ros.policy.openvla.llama import Fused
from openvla_ros.policy.openvla.loading import INDEX, SINGLE, FileWeights, Weights, expected_shapes, open_weights
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.precision import QuantizedLinear
from openvla_ros.policy.openvla.processor import CENTER_CROP
from openvla_ros.policy.openvla.random_weights import RandomWeights

Statistics = Mapping[str, Any]  # norm_stats: {dataset: {"action": {...}, ...}}

STATISTICS = "dataset_statistics.json"
SHARD_BYTES = 5_000_000_000
# Names and values in config.json.
DTYPES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}
# Everything but weights that a checkpoint folder may hold. The list is closed: a folder may hold anything else too.
FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
)


def save_like(
    folder: Path,
    model: OpenVLA,
    base: Path,
    statistics: Statistics,
    *,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = SHARD_BYTES,
    center_crop: float | None = None,
) -> None:
    """Write ``model`` to ``folder``, with configuration, tokenizer and unused tensors of the checkpoint ``base``.

    Unused tensors that ``base`` was saved without get initial values. statistics go to dataset_statistics.json, which
    replaces config.json's norm_stats; those stay as they were, as in OpenVLA's own fine-tuning. center_crop: that
    the model now wants of its images, None for ``base``'s. Raises CheckpointError
    as `save_checkpoint` does, and where ``base`` lacks something.
    """
    config = model.config
    with (
        open_weights(base, config, torch.device("cpu")) as weights,
        save_checkpoint(
            folder, model, statistics, unused=_OrInitial(weights, config), dtype=dtype, shard_bytes=shard_bytes
        ) as staging,
    ):
        for name in FILES:
            if (base / name).is_file():
                shutil.copyfile(base / name, staging / name)
        raw = read_json(base / "config.json")
        if raw.get("torch_dtype") != DTYPES[dtype]:
            write_json(staging / "config.json", raw | {"torch_dtype": DTYPES[dtype]})
        preprocessor = read_json(base / "preprocessor_config.json")
        if center_crop is not None and preprocessor.get(CENTER_CROP, 1.0) != center_crop:
            write_json(staging / "preprocessor_config.json", preprocessor | {CENTER_CROP: center_crop})


class _OrInitial:
    """Tensors from files, or initial ones where these have none."""

    def __init__(self, weights: FileWeights, config: OpenVLAConfig) -> None:
        self._weights, self._initial = weights, RandomWeights(config)

    def tensor(self, name: str) -> Tensor:
        return (self._weights if name in self._weights.names else self._initial).tensor(name)


@contextmanager
def save_checkpoint(
    folder: Path,
    model: OpenVLA,
    statistics: Statistics,
    *,
    unused: Weights,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = SHARD_BYTES,
) -> Iterator[Path]:
    """Write weights and dataset_statistics.json; yields the folder for everything else. All of it is there or nothing.

    unused: where the tensors come from that inference never uses. shard_bytes: weights that are larger become several
    files with an index. Raises CheckpointError for a folder that exists,
    a quantized model, a disk that is too small.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} exists already: choose another folder or remove it")
    if dtype not in DTYPES:
        raise CheckpointError(f"weights can't be saved as {dtype}; use {', '.join(map(str, DTYPES))}")
    staging = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        _check_disk(staging, model.config, dtype)
        yield staging
        write_json(staging / STATISTICS, dict(statistics))
        _save_weights(staging, model, unused, dtype, shard_bytes)
        staging.rename(folder)
    except OSError as error:
        raise CheckpointError(f"the checkpoint can't be written to {folder}: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def file_tensors(model: OpenVLA) -> dict[str, Tensor]:
    """{name in the files: tensor} of a model, views of its parameters. Raises CheckpointError for a quantized model."""
    tensors: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            raise CheckpointError(f"{name} is quantized: only float32 and bf16 models can be saved")
        if isinstance(module, Fused):
            place = name.rpartition(".")[0]
            parts = module.weight.detach().split(list(module.parts.values()))
            tensors |= {f"{place}.{part}.weight": t for part, t in zip(module.parts, parts, strict=True)}
        else:
            tensors |= {f"{name}.{key}": p.detach() for key, p in module.named_parameters(recurse=False)}
    return tensors


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def checkpoint_bytes(config: OpenVLAConfig, dtype: torch.dtype) -> int:
    """Size of the weights on disk."""
    used, unused = expected_shapes(config)
    return sum(prod(shape) for shape in (used | unused).values()) * dtype.itemsize


def _check_disk(folder: Path, config: OpenVLAConfig, dtype: torch.dtype) -> None:
    needed, free = checkpoint_bytes(config, dtype), shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"the checkpoint needs {needed / 1e9:.1f} GB, there are {free / 1e9:.1f} GB free for {folder.parent}"
        )


def _save_weights(folder: Path, model: OpenVLA, unused: Weights, dtype: torch.dtype, shard_bytes: int) -> None:
    """One shard in memory at a time, beside the model."""
    tensors = file_tensors(model)
    used, others = expected_shapes(model.config)
    shapes = dict(sorted((used | others).items()))
    shards = _shards({name: prod(shape) * dtype.itemsize for name, shape in shapes.items()}, shard_bytes)
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        shard = {}
        for name in names:
            tensor = tensors[name] if name in tensors else unused.tensor(name)
            # A copy: parts of a fused layer share memory, which safetensors refuses.
            shard[name] = tensor.to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
            weight_map[name] = file
        save_file(shard, folder / file, metadata={"format": "pt"})
        shutil.copymode(folder / STATISTICS, folder / file)  # safetensors lets nobody else read it
    if len(shards) > 1:
        total = checkpoint_bytes(model.config, dtype)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in their order, cut where a file would grow beyond ``limit`` bytes."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards
