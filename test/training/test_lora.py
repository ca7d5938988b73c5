"""LoRA: where OpenVLA's fine-tuning has it, and merged without a difference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from openvla_ros.policy.openvla.config import parse_config
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.saving import file_tensors
from openvla_ros.training.forward import ActionLogits
from openvla_ros.training.lora import add_adapters, merged
from openvla_ros.training.settings import Lora

INPUTS = (torch.arange(3, 33).view(2, 15), torch.tensor([5, 8]), 8)


def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 56, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def stir(model: OpenVLA) -> None:
    """Adapters as after training: their second halves begin at 0, where a wrong merge would not show."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1


def trainable(model: OpenVLA) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_merged_is_what_was_trained(small: Path) -> None:
    engine = Engine(small, precision="float32")
    before = {name: tensor.clone() for name, tensor in file_tensors(engine.model).items()}
    plain = ActionLogits(engine.model, engine.processor.image)(images(), *INPUTS)
    add_adapters(engine.model, Lora(rank=4), False, 0)
    module = ActionLogits(engine.model, engine.processor.image)
    assert torch.allclose(module(images(), *INPUTS), plain, atol=1e-5)  # they begin without effect
    stir(engine.model)
    adapted = module(images(), *INPUTS)
    assert not torch.allclose(adapted, plain, atol=0.1)
    result = merged(engine.model, torch.float32)
    got = ActionLogits(result, engine.processor.image)(images(), *INPUTS)
    assert torch.allclose(got, adapted, atol=1e-4)
    assert torch.equal(module(images(), *INPUTS), adapted)  # the adapters are still there, to be trained on
    after = file_tensors(result)
    assert after.keys() == before.keys()
    layers = {k for k, t in before.items() if t.ndim > 1 and not k.endswith(("embed", "token", "embed_tokens.weight"))}
    assert {name for name, tensor in after.items() if not torch.equal(tensor, before[name])} == layers


def test_the_released_model_gets_the_parameters_of_openvlas_own_fine_tuning() -> None:
    """110,828,288, as peft reports it for finetune.py, lm_head and patch embeddings included. Those of layers that
    OpenVLA never uses, which get no gradient there, are not built here. Fused layers would share adapters."""
    released = Path(__file__).parents[1] / "data" / "openvla-7b" / "config.json"
    with torch.device("meta"):
        model = OpenVLA(parse_config(json.loads(released.read_text())))
    add_adapters(model, Lora(), False, 0)
    last_blocks = 32 * (4 * 1024 + 2 * 1024 + 2 * 5 * 1024 + 4 * 1152 + 2 * 1152 + 2 * (1152 + 4304))
    pooling = 32 * (2 * 1152 + 3 * 1152 + 2 * 1152 + 2 * (1152 + 4304))
    assert trainable(model) == 110_828_288 - last_blocks - pooling


def test_frozen_vision_has_no_adapters(small: Path) -> None:
    model = Engine(small, precision="float32").model
    add_adapters(model, Lora(rank=4), True, 0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert not [name for name in trained if name.startswith("vision_backbone")]


def test_a_base_in_bf16_is_merged_without_its_rounding_twice(small: Path) -> None:
    """Added in bf16, most of what adapters learned falls between two numbers."""
    model = Engine(small, precision="bf16").model
    weight = model.projector.fc1.weight.data.float().clone()
    add_adapters(model, Lora(rank=4), False, 0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    stir(model)
    layer = model.projector.fc1
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    wanted = weight + b.double().mm(a.double()).float() * (4 / 4)
    assert torch.allclose(merged(model, torch.float32).projector.fc1.weight, wanted, atol=1e-6)


@pytest.mark.parametrize(("rank", "alpha"), [(32, 16), (8, 8)])
def test_alpha_is_the_rank_but_16_at_most(small: Path, rank: int, alpha: int) -> None:
    model = Engine(small, precision="float32").model
    add_adapters(model, Lora(rank=rank), False, 0)
    assert model.projector.fc1.scaling["default"] == alpha / rank
