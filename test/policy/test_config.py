"""config.json: what is completed, what is refused, and that the released 7B builds from it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from openvla_ros.errors import CheckpointError
from openvla_ros.policy.openvla.config import LlamaConfig, parse_config
from openvla_ros.policy.openvla.loading import build_model, expected_shapes
from openvla_ros.policy.openvla.precision import scheme_for
from openvla_ros.policy.openvla.processor import ImageProcessor

Config = dict[str, Any]


@pytest.fixture
def config(released: Path) -> Config:
    content: Config = json.loads((released / "config.json").read_text())
    return content


def test_released_7b_has_exactly_the_published_tensors(config: Config, released: Path) -> None:
    """982 names and shapes, on the meta device: what is used and what is not together, and no overlap."""
    published = {key: tuple(shape) for key, shape in json.loads((released / "keys_shapes.json").read_text()).items()}
    used, unused = expected_shapes(parse_config(config))
    assert len(published) == 982
    assert not used.keys() & unused.keys()
    assert used | unused == published


def test_released_7b_is_filled_from_the_published_tensors(config: Config, released: Path) -> None:
    """On the meta device: every tensor that is used finds its place, once, and no other is asked for."""
    published = json.loads((released / "keys_shapes.json").read_text())
    asked: list[str] = []

    class Meta:
        def tensor(self, name: str) -> torch.Tensor:
            asked.append(name)
            return torch.empty(published[name], device="meta", dtype=torch.bfloat16)

    parsed = parse_config(config)
    model = build_model(parsed, Meta(), scheme_for("bf16", torch.device("cpu")))
    assert sorted(asked) == sorted(expected_shapes(parsed)[0])
    assert sum(p.numel() for p in model.parameters()) == sum(math.prod(published[name]) for name in asked)


def test_released_7b_is_completed_by_llama_config_defaults(config: Config) -> None:
    """text_config names only model_type, vocab_size and pad_token_id. Llama 2's own eps of 1e-5 would be wrong."""
    llama = parse_config(config).llama
    assert (llama.rms_norm_eps, llama.rope_theta, llama.num_hidden_layers) == (1e-6, 10000.0, 32)
    assert (llama.hidden_size, llama.intermediate_size, llama.num_key_value_heads) == (4096, 11008, 32)


def test_defaults_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.LlamaConfig(), LlamaConfig()
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert (ours.rms_norm_eps, ours.max_position_embeddings) == (theirs.rms_norm_eps, theirs.max_position_embeddings)
    assert (ours.num_key_value_heads, ours.eos_token_id) == (theirs.num_key_value_heads, theirs.eos_token_id)


def test_released_7b_preprocesses_to_six_channels_of_224(released: Path) -> None:
    processor = ImageProcessor(json.loads((released / "preprocessor_config.json").read_text()))
    assert (processor.channels, processor.size, processor.strategy) == (6, 224, "resize-naive")


def test_action_tokens_are_the_last_256_below_32000(config: Config) -> None:
    parsed = parse_config(config)
    assert (parsed.action_vocab_size, parsed.n_action_bins, parsed.llama.vocab_size) == (32000, 256, 32064)


def test_v01_is_recognised_by_its_language_model(v01: Path) -> None:
    """A local v0.1 folder may have any name; the official code decides by 'v01' in the path."""
    parsed = parse_config(json.loads((v01 / "config.json").read_text()))
    assert parsed.prompt.startswith("A chat between a curious user")
    assert len(parsed.towers) == 1


def test_transformers_5_spelling_of_rope_is_read(config: Config) -> None:
    config["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    assert parse_config(config).llama.rope_theta == 5e5


def test_small_towers_may_see_smaller_images(tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    assert [t.patches for t in parse_config(config | {"image_sizes": [112, 112]}).towers] == [64, 64]
    for sizes in ([112, 224], [100, 100], [0, 0]):
        with pytest.raises(CheckpointError, match="image_sizes"):
            parse_config(config | {"image_sizes": sizes})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["text_config"].update(rope_scaling={"type": "linear", "factor": 2}), "rope_scaling"),
        (lambda c: c["text_config"].update(rope_parameters={"rope_type": "yarn"}), "rope_parameters"),
        (lambda c: c["text_config"].update(model_type="phi"), "model_type"),
        (lambda c: c["text_config"].update(hidden_act="gelu"), "hidden_act"),
        (lambda c: c["text_config"].update(tie_word_embeddings=True), "tie_word_embeddings"),
        (lambda c: c["text_config"].update(head_dim=64), "head_dim"),
        (lambda c: c["text_config"].update(hidden_size="large"), "wrong type"),
        (lambda c: c.update(llm_backbone_id="phi-2-3b"), "llm_backbone_id"),
        (lambda c: c.update(timm_model_ids=["vit_tiny", "vit_tiny"]), "timm_model_ids"),
        (lambda c: c.update(use_fused_vision_backbone=False), "use_fused_vision_backbone"),
        (lambda c: c.update(timm_override_act_layers=["quick_gelu", None]), "timm_override_act_layers"),
        (lambda c: c.update(image_sizes=[384, 384]), "image_sizes"),
        (lambda c: c.update(tiny_vision_towers=[{"timm_model_id": "x"}]), "tiny_vision_towers"),
        (lambda c: c.pop("pad_to_multiple_of"), "pad_to_multiple_of"),
        (lambda c: c.pop("text_config"), "text_config"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(
    config: Config, change: Callable[[Config], object], named: str
) -> None:
    change(config)
    with pytest.raises(CheckpointError, match=named):
        parse_config(config)
