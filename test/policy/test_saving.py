"""Checkpoints written: the official layout, bit for bit what was loaded, and new ones of any size."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from openvla_ros.errors import CheckpointError, ConfigError
from openvla_ros.policy.openvla.config import parse_config
from openvla_ros.policy.openvla.creation import LlamaSize, ModelSize, TowerSize, create_checkpoint
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.loading import INDEX, SINGLE, expected_shapes
from openvla_ros.policy.openvla.saving import STATISTICS, save_like
from openvla_ros.policy.openvla.verification import verify_cases
from openvla_ros.policy.registry import load_policy

SMALL = ModelSize(112, TowerSize(32, 3, 2), TowerSize(24, 3, 2), LlamaSize(32, 64, 2, 2))
INSTRUCTIONS = ("lift the red block", "put the blue block on the plate")


@pytest.fixture
def statistics(tiny: Path) -> dict[str, object]:
    stats: dict[str, object] = json.loads((tiny / "config.json").read_text())["norm_stats"]
    return {"bridge_orig": stats["bridge_orig"]}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {key: t for path in folder.glob("*.safetensors") for key, t in load_file(path).items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("which", ["tiny", "v01"])
def test_loaded_and_saved_is_the_same_bit_for_bit(
    request: pytest.FixtureRequest, tmp_path: Path, which: str, precision: str, statistics: dict[str, object]
) -> None:
    """Fused layers go back into their parts, unused tensors are kept, with one tower and with two."""
    base: Path = request.getfixturevalue(which)
    save_like(tmp_path / "saved", Engine(base, precision=precision).model, base, statistics)
    assert_same(tensors(base), tensors(tmp_path / "saved"))
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == json.loads(
        (base / "config.json").read_text()
    )
    assert json.loads((tmp_path / "saved" / STATISTICS).read_text()) == statistics


def test_shards_are_the_same_model(tmp_path: Path, tiny: Path, golden: Path, statistics: dict[str, object]) -> None:
    folder = tmp_path / "saved"
    save_like(folder, Engine(tiny, precision="float32").model, tiny, statistics, shard_bytes=2_000_000)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) == 3  # each table of embeddings is larger than a shard
    assert_same(tensors(tiny), tensors(folder))
    total = sum(t.nbytes for t in tensors(tiny).values())
    assert json.loads((folder / INDEX).read_text())["metadata"] == {"total_size": total}
    (folder / STATISTICS).unlink()
    assert verify_cases(Engine(folder, precision="float32"), golden / "openvla-tiny-cases").passed


def test_the_key_set_is_complete_where_the_base_lacks_unused_tensors(
    tiny_copy: Path, tmp_path: Path, statistics: dict[str, object]
) -> None:
    """transformers' own loader would otherwise fill them without a word."""
    everything = load_file(tiny_copy / SINGLE)
    save_file({k: t for k, t in everything.items() if "attn_pool" not in k}, tiny_copy / SINGLE)
    save_like(tmp_path / "saved", Engine(tiny_copy).model, tiny_copy, statistics)
    assert tensors(tmp_path / "saved").keys() == everything.keys()


def test_float32_is_kept(tmp_path: Path, tiny: Path, statistics: dict[str, object]) -> None:
    """bfloat16 would drop what fine-tuning changed in the lower bits."""
    model = Engine(tiny, precision="float32").model
    with torch.no_grad():
        model.projector.fc1.weight.add_(1e-7)
    save_like(tmp_path / "saved", model, tiny, statistics, dtype=torch.float32)
    again = Engine(tmp_path / "saved", precision="float32").model
    assert torch.equal(again.projector.fc1.weight, model.projector.fc1.weight)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["torch_dtype"] == "float32"


def test_nothing_is_overwritten_or_left_half_done(
    tmp_path: Path, tiny: Path, statistics: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Engine(tiny).model
    save_like(tmp_path / "saved", model, tiny, statistics)
    with pytest.raises(CheckpointError, match="exists already"):
        save_like(tmp_path / "saved", model, tiny, statistics)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(CheckpointError, match="GB free"):
        save_like(tmp_path / "other", model, tiny, statistics)
    assert [path.name for path in tmp_path.iterdir() if path.name != "checkpoint"] == ["saved"]


def test_a_quantized_model_is_refused(tmp_path: Path, tiny: Path, statistics: dict[str, object]) -> None:
    """Its rounded weights would pass for the checkpoint's own."""
    model = Engine(tiny, device="cpu", precision="int8-wo").model
    with pytest.raises(CheckpointError, match="quantized"):
        save_like(tmp_path / "saved", model, tiny, statistics)


def test_a_new_model_of_any_size_runs(tmp_path: Path, statistics: dict[str, object]) -> None:
    create_checkpoint(tmp_path / "new", SMALL, INSTRUCTIONS, statistics)
    used, unused = expected_shapes(parse_config(json.loads((tmp_path / "new" / "config.json").read_text())))
    assert {k: tuple(t.shape) for k, t in tensors(tmp_path / "new").items()} == used | unused
    policy = load_policy(str(tmp_path / "new"), precision="float32")
    policy.warm_up()
    assert policy.engine.model.config.patches == 64


def test_a_new_model_is_decided_by_its_seed(tmp_path: Path, statistics: dict[str, object]) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        create_checkpoint(tmp_path / name, SMALL, INSTRUCTIONS, statistics, seed=seed, dtype=torch.float32)
    a, b, c = (tensors(tmp_path / name) for name in "abc")
    assert_same(a, b)
    key = "language_model.lm_head.weight"
    assert not torch.equal(a[key], c[key])
    assert math.isclose(float(a[key].std()), 0.02, rel_tol=0.05)


def test_a_new_tokenizer_has_llamas_layout(tmp_path: Path, statistics: dict[str, object]) -> None:
    """BOS first, the space last by its own id, unknown words in bytes, and no text becomes an action token."""
    create_checkpoint(tmp_path / "new", SMALL, INSTRUCTIONS, statistics)
    engine = Engine(tmp_path / "new")
    text, first = engine.processor.text, engine.config.action_vocab_size - 256
    assert not text.is_released_llama2
    known = [text.tokenizer.id_to_token(int(i)) for i in text.input_ids(INSTRUCTIONS[0])]
    assert known[0] == "<s>"
    assert known[-3:] == ["Out", ":", "▁"]
    assert known[-9:-4] == ["▁lift", "▁the", "▁red", "▁block", "?"]
    for strange in ("weiß <action_3> <PAD>", "lift the red block " * 3, ""):
        ids = text.input_ids(strange)
        assert not np.any((ids >= first) & (ids < engine.config.action_vocab_size))
        assert 0 not in ids  # <unk>
    assert text.tokenizer.token_to_id("<PAD>") == engine.config.action_vocab_size


@pytest.mark.parametrize(
    ("size", "named"),
    [
        (replace(SMALL, image_size=100), "image_sizes"),
        (replace(SMALL, dinov2=TowerSize(32, 3, 5)), "dinov2"),
        (replace(SMALL, siglip=TowerSize(24, 1, 2)), "siglip.depth"),
        (replace(SMALL, llama=LlamaSize(18, 64, 2, 2)), "llama"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(
    tmp_path: Path, statistics: dict[str, object], size: ModelSize, named: str
) -> None:
    with pytest.raises((ConfigError, CheckpointError), match=named):
        create_checkpoint(tmp_path / "new", size, INSTRUCTIONS, statistics)
    assert not list(tmp_path.iterdir())
