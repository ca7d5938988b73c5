"""Low-rank adapters by peft, where OpenVLA's fine-tuning has them, and their way into the weights."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from openvla_ros.errors import ConfigError
from openvla_ros.policy.openvla.llama import Fused
from openvla_ros.policy.openvla.loading import build_model
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.precision import scheme_for
from openvla_ros.training.settings import Lora

_ADAPTER = "default"


class Unfused(nn.Module):
    """A fused layer as the layers that the files have: an adapter of a fused one would be shared by its parts."""

    def __init__(self, fused: Fused) -> None:
        super().__init__()
        for (name, rows), weight in zip(
            fused.parts.items(), fused.weight.detach().split(list(fused.parts.values())), strict=True
        ):
            linear = nn.Linear(fused.in_features, rows, bias=False, device="meta")
            linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
            self.add_module(name, linear)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.children()], dim=-1)


def add_adapters(model: OpenVLA, lora: Lora, freeze_vision: bool, seed: int) -> None:
    """Give every linear layer and patch embedding of the model an adapter, and leave only those to be trained.

    OpenVLA's "all-linear" takes in lm_head, and the patch embeddings for their name. Raises ConfigError without peft.
    """
    peft = _peft()
    for name, module in list(model.named_modules()):
        if isinstance(module, Fused):
            model.set_submodule(name, Unfused(module))
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and not (freeze_vision and name.startswith("vision_backbone."))
    ]
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=min(lora.rank, 16) if lora.alpha is None else lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=layers,
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model, _ADAPTER)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()


def merged(model: OpenVLA, dtype: torch.dtype) -> OpenVLA:
    """A plain model on the CPU with the adapters in its weights; ``model`` stays as it is."""
    scheme = scheme_for("bf16" if dtype is torch.bfloat16 else "float32", torch.device("cpu"))
    return build_model(model.config, _Merged(model), scheme)


class _Merged:
    """A model's tensors by their names in the files, with the adapters added in float32, one after another."""

    def __init__(self, model: OpenVLA) -> None:
        from peft.tuners.lora import LoraLayer

        self._layers: dict[str, Any] = {}
        self._plain: dict[str, Tensor] = {}
        split = {name for name, module in model.named_modules() if isinstance(module, Unfused)}
        for name, module in model.named_modules():
            if ".base_layer" in name or ".lora_" in name:  # inside of an adapted layer
                continue
            parent, _, leaf = name.rpartition(".")
            place = f"{parent.rpartition('.')[0]}.{leaf}" if parent in split else name
            if isinstance(module, LoraLayer):
                self._layers[place] = module
                continue
            for key, parameter in module.named_parameters(recurse=False):
                self._plain[f"{place}.{key}"] = parameter

    def tensor(self, name: str) -> Tensor:
        place, _, key = name.rpartition(".")
        if place not in self._layers:
            return self._plain[name].detach().cpu()
        layer = self._layers[place]
        base: Tensor = getattr(layer.get_base_layer(), key).detach()
        if key == "weight":
            base = base.float() + layer.get_delta_weight(_ADAPTER).detach()
        return base.cpu()


def _peft() -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise ConfigError(f"lora needs peft ({error}): pip install 'openvla_ros[train]', or train without") from None
    return peft
