"""Weights: single file and shards, and every way in which a checkpoint folder can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.multiprocessing.reductions import StorageWeakRef

from openvla_ros.errors import CheckpointError
from openvla_ros.policy.checkpoint import read_json
from openvla_ros.policy.openvla.config import parse_config
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.loading import INDEX, SINGLE, build_model
from openvla_ros.policy.openvla.precision import scheme_for
from openvla_ros.policy.openvla.random_weights import RandomWeights
from openvla_ros.policy.openvla.verification import verify_cases

Tensors = dict[str, torch.Tensor]


def shard(folder: Path, count: int = 3) -> list[Path]:
    """Rewrite a single-file checkpoint as shards with an index, the way transformers lays them out."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    paths = [folder / f"model-{n + 1:05}-of-{count:05}.safetensors" for n in range(count)]
    keys = [sorted(tensors)[n::count] for n in range(count)]
    for path, part in zip(paths, keys, strict=True):
        save_file({key: tensors[key] for key in part}, path)
    weight_map = {key: path.name for path, part in zip(paths, keys, strict=True) for key in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return paths


def rewrite(path: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_shards_are_the_same_model(tiny_copy: Path, golden: Path) -> None:
    shard(tiny_copy)
    assert verify_cases(Engine(tiny_copy, precision="float32"), golden / "openvla-tiny-cases").passed


def test_unused_tensors_may_be_left_out(tiny_copy: Path, golden: Path) -> None:
    """Last block, final norm and pooling head are never read; a file without them is still the whole policy."""

    def strip(tensors: Tensors) -> None:
        unused = [k for k in tensors if "attn_pool" in k or "featurizer.norm" in k or "featurizer.blocks.3." in k]
        for key in unused:
            if not key.startswith("vision_backbone.fused_featurizer.blocks.3."):  # that tower has five blocks
                del tensors[key]

    rewrite(tiny_copy / SINGLE, strip)
    assert verify_cases(Engine(tiny_copy), golden / "openvla-tiny-cases").passed


def _lose(key: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(key)


QKV = "vision_backbone.featurizer.blocks.0.attn.qkv.weight"
POOL = "vision_backbone.fused_featurizer.attn_pool.q.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_lose("projector.fc2.bias"), r"lacks tensors \(1\): projector.fc2.bias"),
        (lambda t: t.update(foreign=torch.zeros(1)), r"unknown tensors \(1\): foreign"),
        (lambda t: t.update({QKV: t[QKV].T.contiguous()}), f"{QKV} has shape \\(48, 144\\), config.json wants"),
        (lambda t: t.update({POOL: torch.zeros(1)}), f"{POOL} has shape"),
    ],
)
def test_missing_foreign_and_misshaped_tensors_are_named(
    tiny_copy: Path, change: Callable[[Tensors], object], message: str
) -> None:
    rewrite(tiny_copy / SINGLE, change)
    with pytest.raises(CheckpointError, match=message):
        Engine(tiny_copy)


def test_gamma_is_not_a_name_of_layer_scale(tiny_copy: Path) -> None:
    """timm's `gamma` is stored as `scale_factor`. A converted file with the other name must not load without it."""

    def rename(tensors: Tensors) -> None:
        for key in [k for k in tensors if k.endswith("scale_factor")]:
            tensors[key.replace("scale_factor", "gamma")] = tensors.pop(key)

    rewrite(tiny_copy / SINGLE, rename)
    with pytest.raises(CheckpointError, match="scale_factor"):
        Engine(tiny_copy)


def test_a_missing_shard_is_named(tiny_copy: Path) -> None:
    paths = shard(tiny_copy)
    paths[1].unlink()
    with pytest.raises(CheckpointError, match=f"lacks {paths[1].name}"):
        Engine(tiny_copy)


def test_a_truncated_shard_is_named(tiny_copy: Path) -> None:
    path = shard(tiny_copy)[2]
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=f"{path.name} is not a readable safetensors file"):
        Engine(tiny_copy)


def test_a_stale_shard_is_noticed(tiny_copy: Path) -> None:
    """The index says where a tensor is; a shard of an earlier save that also has it must not win by chance."""
    first, second, _ = shard(tiny_copy)
    key, tensor = next(iter(load_file(second).items()))
    rewrite(first, lambda tensors: tensors.update({key: tensor}))
    with pytest.raises(CheckpointError, match=f"disagree on 1 entries, first {key} in {first.name}"):
        Engine(tiny_copy)


def test_a_single_file_beside_an_index_is_ambiguous(tiny_copy: Path) -> None:
    content = (tiny_copy / SINGLE).read_bytes()
    shard(tiny_copy)
    (tiny_copy / SINGLE).write_bytes(content)
    with pytest.raises(CheckpointError, match="both"):
        Engine(tiny_copy)


def test_a_git_lfs_pointer_says_so(tiny_copy: Path) -> None:
    (tiny_copy / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7050828\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        Engine(tiny_copy)


def test_pickles_are_never_opened(tiny_copy: Path) -> None:
    """A pickle that runs code when it is opened, under the name that transformers would fall back to."""
    (tiny_copy / SINGLE).unlink()
    bomb = b"cbuiltins\nexit\n(I3\ntR."
    (tiny_copy / "pytorch_model.bin").write_bytes(bomb)
    with pytest.raises(CheckpointError, match="convert them to safetensors"):
        Engine(tiny_copy)


@pytest.mark.parametrize("name", ["action_head--latest_checkpoint.pt", "lora_adapter"])
def test_an_oft_checkpoint_is_refused(tiny_copy: Path, name: str) -> None:
    """OFT has the same config.json and tensors; decoded token by token it gives plausible, wrong actions."""
    (tiny_copy / name).touch()
    with pytest.raises(CheckpointError, match="OFT"):
        Engine(tiny_copy)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json", SINGLE])
def test_an_incomplete_folder_says_what_is_missing(tiny_copy: Path, name: str) -> None:
    (tiny_copy / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        Engine(tiny_copy)


@pytest.mark.parametrize("precision", ["int8", "int8-wo", "int4-wo", "int4"])
def test_no_full_size_copy_stays_while_loading(tiny_copy: Path, precision: str) -> None:
    """Hazard: the weights of quantized layers lived until the last layer was there: 15 GB more for the 7B in int4."""
    if precision in ("int8", "int4"):
        pytest.importorskip("bitsandbytes")
    config = parse_config(read_json(tiny_copy / "config.json"))
    random, given, alive = RandomWeights(config), [], []

    class Watched:
        def tensor(self, name: str) -> torch.Tensor:
            tensor = random.tensor(name).to(torch.bfloat16)
            if name.endswith(("o_proj.weight", "down_proj.weight")):  # one tensor, one layer
                given.append((name, StorageWeakRef(tensor.untyped_storage())))
            if name == "language_model.lm_head.weight":  # the last one
                alive.extend(layer for layer, storage in given if not storage.expired())
            return tensor

    build_model(config, Watched(), scheme_for(precision, torch.device("cpu")))
    assert given
    assert alive == []
