"""int8-wo and int4-wo: the language model's weights in 8 or 4 bits, everything else in bf16.

Without compiling the whole model PyTorch has no kernel for few rows and int8 weights that reads no more than these, and
the layout of its int4 kernel can't be dequantized for a prompt. So few rows go through a Triton kernel that dequantizes
in registers (weight_only_kernels.py), and a prompt through a dequantized copy of one layer at a time. A CPU always does
the latter.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from openvla_ros.errors import ConfigError
from openvla_ros.policy.openvla.precision.base import QuantizedLinear, Scheme

GROUP = 128  # int4: weights that share a scale and an offset
FEW_ROWS = 64  # where the kernel's reads stop being what takes the time


def scheme(name: str, device: torch.device) -> Scheme:
    if device.type == "cuda" and find_spec("triton") is None:
        raise ConfigError(
            f"precision '{name}' needs Triton, which CUDA builds of PyTorch for Linux bring along: reinstall torch, or "
            f"use bf16, int8 or int4"
        )
    libraries = ("triton",) if device.type == "cuda" else ()
    if name == "int8-wo":
        return Scheme(
            name,
            torch.bfloat16,
            quantizes="llama",
            make=Int8WeightLinear,
            weight_bytes=lambda rows, columns: rows * columns + 4 * rows,
            rounding=1
            / 120,  # half a step of 1/127, and half a step of bf16: 1/256 where the largest is a power of two
            tolerance=0.01,
            details={"scheme": "weight-only int8, symmetric", "group_size": "row"},
            libraries=libraries,
        )
    return Scheme(
        name,
        torch.bfloat16,
        quantizes="llama",
        make=Int4WeightLinear,
        weight_bytes=lambda rows, columns: rows * -(-columns // GROUP) * (GROUP // 2 + 8),
        rounding=1 / 14,  # half a step of 2/15, and bf16
        tolerance=0.01,
        details={"scheme": "weight-only int4, asymmetric", "group_size": GROUP},
        libraries=libraries,
    )


class _WeightOnly(QuantizedLinear):
    codes: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if not x.is_cuda or len(rows) > FEW_ROWS:
            return F.linear(x, self.dequantized(), self.bias)
        y = self.few_rows(rows)
        return (y if self.bias is None else y + self.bias).view(*x.shape[:-1], self.out_features)

    def few_rows(self, x: Tensor) -> Tensor:
        """(M, in) -> (M, out) by the kernel, without bias."""
        raise NotImplementedError


class Int8WeightLinear(_WeightOnly):
    """w = code * scale, one scale a row."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        scale = weight.float().abs().amax(dim=1).clamp_min(1e-12) / 127
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("codes", (weight.float() / scale[:, None]).round_().to(torch.int8), persistent=False)

    def few_rows(self, x: Tensor) -> Tensor:
        from openvla_ros.policy.openvla.precision.weight_only_kernels import int8_linear

        return int8_linear(x, self.codes, self.scale)

    def dequantized(self) -> Tensor:
        return (self.codes.float() * self.scale[:, None]).to(self.dtype)


class Int4WeightLinear(_WeightOnly):
    """w = code * scale + offset, code 0 to 15, a scale and an offset for each group of a row.

    A byte holds a code of the first half of its group in the low bits and of the second half in the high bits. The last
    group of a row is filled up with zeros.
    """

    offset: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        wide = F.pad(weight.float(), (0, -self.in_features % GROUP)).view(self.out_features, -1, GROUP)
        low, high = wide.amin(dim=2), wide.amax(dim=2)
        scale = (high - low).clamp_min(1e-12) / 15
        codes = ((wide - low[..., None]) / scale[..., None]).round_().clamp_(0, 15).to(torch.uint8)
        self.register_buffer("codes", codes[..., : GROUP // 2] | codes[..., GROUP // 2 :] << 4, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("offset", low, persistent=False)

    def few_rows(self, x: Tensor) -> Tensor:
        from openvla_ros.policy.openvla.precision.weight_only_kernels import int4_linear

        return int4_linear(x, self.codes, self.scale, self.offset)

    def dequantized(self) -> Tensor:
        codes = torch.cat([self.codes & 15, self.codes >> 4], dim=2)
        wide = torch.addcmul(self.offset[..., None], codes, self.scale[..., None])
        return wide.to(self.dtype).flatten(1)[:, : self.in_features]
