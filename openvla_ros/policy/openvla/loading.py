"""Weights from safetensors into the model: every tensor that is missing, foreign or misshaped is named."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from openvla_ros.errors import CheckpointError
from openvla_ros.policy.checkpoint import read_json
from openvla_ros.policy.openvla.config import OpenVLAConfig
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.vision import unused_shapes

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

Shape = tuple[int, ...]


def load_model(folder: Path, config: OpenVLAConfig, device: torch.device, dtype: torch.dtype) -> OpenVLA:
    """The model with its weights on ``device`` in ``dtype``, in eval mode. Raises CheckpointError."""
    _refuse_oft(folder)
    used, unused = expected_shapes(config)
    files = weight_files(folder)
    where = {path: _read(path, device, lambda file: list(file.keys())) for path in files}
    _check_index(folder, where)
    _check_names({key for keys in where.values() for key in keys}, used, unused)

    def tensors(file: Any) -> dict[str, torch.Tensor]:
        for key in file.keys():  # noqa: SIM118 (a safetensors file, not a dict)
            shape, wanted = tuple(file.get_slice(key).get_shape()), used.get(key) or unused[key]
            if shape != wanted:
                raise CheckpointError(f"tensor {key} has shape {shape}, config.json wants {wanted}")
        return {key: file.get_tensor(key).to(dtype) for key in file.keys() if key in used}  # noqa: SIM118

    state: dict[str, torch.Tensor] = {}
    for path in files:
        state.update(_read(path, device, tensors))
    with torch.device("meta"):
        model = OpenVLA(config)
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def expected_shapes(config: OpenVLAConfig) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """({name: shape} of the tensors that the model uses, the same of those that files hold without being used)."""
    with torch.device("meta"):
        used = {key: tuple(tensor.shape) for key, tensor in OpenVLA(config).state_dict().items()}
    unused = {
        f"vision_backbone.{name}.{key}": shape
        for name, tower in zip(("featurizer", "fused_featurizer"), config.towers, strict=False)
        for key, shape in unused_shapes(tower).items()
    }
    return used, unused


def _refuse_oft(folder: Path) -> None:
    """OpenVLA-OFT has the same config and tensors but decodes in parallel: run as OpenVLA, its actions are wrong."""
    signs = [path.name for pattern in ("*--*_checkpoint.pt", "lora_adapter") for path in folder.glob(pattern)]
    if signs:
        raise CheckpointError(f"{folder} holds {', '.join(sorted(signs))}: OpenVLA-OFT checkpoints are not supported")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or those that its index names. Raises CheckpointError."""
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file() and index.is_file():
        raise CheckpointError(f"{folder} holds both {SINGLE} and {INDEX}: remove the one that is out of date")
    if single.is_file():
        return [single]
    if not index.is_file():
        raise CheckpointError(
            f"{folder} holds neither {SINGLE} nor {INDEX}; weights in other formats (.bin, .pt) are not loaded, "
            f"because unpickling runs code: convert them to safetensors"
        )
    files = sorted({folder / str(name) for name in _weight_map(folder).values()})
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}, which {INDEX} names: download it again")
    return files


def _weight_map(folder: Path) -> dict[str, Any]:
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / INDEX} has no weight_map")
    return weight_map


def _check_index(folder: Path, where: dict[Path, list[str]]) -> None:
    """The index and the shards must tell the same story, else a stale shard could slip in."""
    if not (folder / INDEX).is_file():
        return
    indexed = {(key, str(name)) for key, name in _weight_map(folder).items()}
    found = {(key, path.name) for path, keys in where.items() for key in keys}
    if indexed != found:
        key, name = min(indexed ^ found)
        raise CheckpointError(
            f"{folder}: {INDEX} and the shards disagree on {len(indexed ^ found)} entries, first {key} in {name}: "
            f"the files are not of one checkpoint"
        )


def _check_names(found: Collection[str], used: Collection[str], unused: Collection[str]) -> None:
    for problem, names in {
        "lacks": sorted(set(used) - set(found)),
        "has unknown": sorted(set(found) - set(used) - set(unused)),
    }.items():
        if names:
            shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
            raise CheckpointError(f"the checkpoint {problem} tensors ({len(names)}): {shown}")


def _read(path: Path, device: torch.device, action: Callable[[Any], Any]) -> Any:
    """``action`` on an opened safetensors file, with every error naming the file."""
    try:
        opened: AbstractContextManager[Any] = safe_open(path, framework="pt", device=str(device))
        with opened as file:
            return action(file)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (SafetensorError, OSError) as error:
        pointer = path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs")
        mend = "it is a Git LFS pointer, run git lfs pull" if pointer else "it is damaged, download it again"
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}): {mend}") from error
