"""What a precision is: the type that activations have, and what becomes of a linear layer's weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openvla_ros.errors import ConfigError


class QuantizedLinear(nn.Module):
    """y = x W^T + b with W stored in fewer bits. Everything it needs is on one device."""

    in_features: int
    out_features: int
    bias: Tensor | None

    def dequantized(self) -> Tensor:
        """(out, in) the weight that the layer stands for, in the precision's dtype."""
        raise NotImplementedError


@dataclass(frozen=True)
class Scheme:
    """One precision.

    dtype: of activations and of every weight that is not quantized. quantizes: 'llama' is the language model's layers,
    'all' the vision towers and the projector as well; embeddings, norms and lm_head never are.
    make(weight (out, in) on the device, bias or None): the layer; None where nothing is quantized.
    weight_bytes(out, in): what it takes. rounding: no dequantized weight is further from the true one than this times
    the largest weight of the layer. tolerance: how far, in relative Frobenius norm, a layer's output may be from that
    of its dequantized weight. rows_independent: no row of a forward pass changes another's result, so that prompts may
    be padded, drafts verified and CUDA graphs recorded.
    """

    name: str
    dtype: torch.dtype
    quantizes: Literal["nothing", "llama", "all"] = "nothing"
    make: Callable[[Tensor, Tensor | None], nn.Module] | None = None
    weight_bytes: Callable[[int, int], int] | None = None
    rounding: float = 0.0
    tolerance: float = 0.0
    rows_independent: bool = True
    details: dict[str, Any] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()

    def covers(self, module: str) -> bool:
        """Whether the linear layer of this name in the whole model is quantized."""
        if self.quantizes == "all":
            return module != "language_model.lm_head"
        return self.quantizes == "llama" and module.startswith("language_model.model.layers.")

    def bytes_of(self, module: str, shape: tuple[int, ...]) -> int:
        """Memory of the weight of this layer."""
        if self.weight_bytes is not None and self.covers(module):
            return self.weight_bytes(*shape)
        return int(torch.Size(shape).numel() * self.dtype.itemsize)

    def describe(self) -> dict[str, Any]:
        """The exact configuration, in plain values."""
        return {
            "precision": self.name,
            "compute_dtype": str(self.dtype).removeprefix("torch."),
            "quantized_layers": self.quantizes,
            **self.details,
            **{library: version(library) for library in self.libraries},
        }


def missing_extra(name: str, package: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f"precision '{name}' needs {package}, which is not installed or does not load ({error}): "
        f'pip install "openvla_ros[gpu]"'
    )
