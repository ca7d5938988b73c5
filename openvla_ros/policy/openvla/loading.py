"""Weights from safetensors into the model, one tensor after another: straight to the device, quantized on arrival.

Every tensor that is missing, foreign or misshaped is named before the first one is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from openvla_ros.errors import CheckpointError, PolicyError
from openvla_ros.policy.checkpoint import read_json
from openvla_ros.policy.openvla.config import OpenVLAConfig
from openvla_ros.policy.openvla.llama import Fused
from openvla_ros.policy.openvla.memory import check_memory
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.precision import QuantizedLinear, Scheme
from openvla_ros.policy.openvla.vision import unused_shapes

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

Shape = tuple[int, ...]


class Weights(Protocol):
    """Where tensors come from: files, or (in benchmarks) a random generator."""

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name in a released file, on the target device."""
        ...


def load_model(folder: Path, config: OpenVLAConfig, device: torch.device, scheme: Scheme) -> OpenVLA:
    """The model of a checkpoint on ``device`` in the precision of ``scheme``, in eval mode.

    Raises CheckpointError, ConfigError where it does not fit into memory, PolicyError where it can't be quantized.
    """
    _refuse_oft(folder)
    with open_weights(folder, config, device) as weights:
        check_memory(config, device, scheme)
        return build_model(config, weights, scheme)


def build_model(config: OpenVLAConfig, weights: Weights, scheme: Scheme) -> OpenVLA:
    """The model with ``weights``, holding at any time one of its layers in more than its final precision."""
    with torch.device("meta"):
        model = OpenVLA(config)
    fill(model, weights, scheme)
    return model.eval().requires_grad_(False)


def fill(model: nn.Module, weights: Weights, scheme: Scheme) -> None:
    """Give every parameter of ``model`` its tensor, and quantize the layers that ``scheme`` covers."""
    for name, module in list(model.named_modules()):
        prefix = f"{name}." if name else ""
        for parameter, empty in list(module.named_parameters(recurse=False)):
            tensor = _tensor(module, prefix, parameter, weights).to(scheme.dtype)
            if tensor.shape != empty.shape:
                raise CheckpointError(f"tensor {prefix}{parameter} has shape {tuple(tensor.shape)}, not {empty.shape}")
            setattr(module, parameter, nn.Parameter(tensor, requires_grad=False))
        if isinstance(module, nn.Linear) and scheme.make is not None and scheme.covers(name):
            model.set_submodule(name, _quantized(name, module, scheme))
            module.weight = None  # type: ignore[assignment]  # the list above keeps the module, and it the full-size weight


def _tensor(module: nn.Module, prefix: str, parameter: str, weights: Weights) -> Tensor:
    if isinstance(module, Fused):
        place = prefix.rpartition(".")[0].rpartition(".")[0]
        return torch.cat([weights.tensor(f"{place}.{part}.{parameter}") for part in module.parts])
    return weights.tensor(prefix + parameter)


def _quantized(name: str, module: nn.Linear, scheme: Scheme) -> nn.Module:
    """The layer in its final form. What its bits stand for is compared with the weight: libraries had bugs here."""
    assert scheme.make is not None
    bias = None if module.bias is None else module.bias.data
    layer = scheme.make(module.weight.data, bias)
    if isinstance(layer, QuantizedLinear):
        off = float((layer.dequantized() - module.weight.data).abs().max())
        allowed = scheme.rounding * float(module.weight.data.abs().max())
        if not off <= allowed:
            raise PolicyError(
                f"{scheme.name} weights of {name} are off by {off:.2e}, rounding explains {allowed:.2e}: the weights "
                f"are not finite, or the quantization library does not work on this device. Use another precision"
            )
    return layer


def expected_shapes(config: OpenVLAConfig) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """({name: shape} of the tensors that the model uses, the same of those that files hold without being used)."""
    with torch.device("meta"):
        used = {
            key: tuple(shape)
            for name, module in OpenVLA(config).named_modules()
            for key, shape in _file_shapes(name, module).items()
        }
    unused = {
        f"vision_backbone.{name}.{key}": shape
        for name, tower in zip(("featurizer", "fused_featurizer"), config.towers, strict=False)
        for key, shape in unused_shapes(tower).items()
    }
    return used, unused


def _file_shapes(name: str, module: nn.Module) -> dict[str, Shape]:
    """Name and shape in the files of a module's own tensors: fused layers are several there."""
    if isinstance(module, Fused):
        place = name.rpartition(".")[0]
        return {f"{place}.{part}.weight": (rows, module.in_features) for part, rows in module.parts.items()}
    return {f"{name}.{key}": tuple(tensor.shape) for key, tensor in module.named_parameters(recurse=False)}


@contextmanager
def open_weights(folder: Path, config: OpenVLAConfig, device: torch.device) -> Iterator[FileWeights]:
    """The weights of a checkpoint folder, once their names and shapes are known to be right. Raises CheckpointError."""
    used, unused = expected_shapes(config)
    with ExitStack() as stack:
        files = {path: stack.enter_context(_opened(path, device)) for path in weight_files(folder)}
        where = {path: list(file.keys()) for path, file in files.items()}
        _check_index(folder, where)
        _check_names({key for keys in where.values() for key in keys}, used, unused)
        for path, keys in where.items():
            for key in keys:
                shape, wanted = tuple(files[path].get_slice(key).get_shape()), used.get(key) or unused[key]
                if shape != wanted:
                    raise CheckpointError(f"{path}: tensor {key} has shape {shape}, config.json wants {wanted}")
        yield FileWeights({key: (path, files[path]) for path, keys in where.items() for key in keys})


class FileWeights:
    """The tensors of a checkpoint's files. names: those that are there."""

    def __init__(self, where: dict[str, tuple[Path, Any]]) -> None:
        self._where = where
        self.names = frozenset(where)

    def tensor(self, name: str) -> Tensor:
        path, file = self._where[name]
        out: Tensor = _reading(path, lambda: file.get_tensor(name))
        return out


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


@contextmanager
def _opened(path: Path, device: torch.device) -> Iterator[Any]:
    opened: AbstractContextManager[Any] = _reading(path, lambda: safe_open(path, framework="pt", device=str(device)))
    with opened as file:
        yield file


def _reading(path: Path, action: Callable[[], Any]) -> Any:
    """``action`` on a safetensors file, with an error that names the file."""
    try:
        return action()
    except (SafetensorError, OSError) as error:
        pointer = path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs")
        mend = "it is a Git LFS pointer, run git lfs pull" if pointer else "it is damaged, download it again"
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}): {mend}") from error
