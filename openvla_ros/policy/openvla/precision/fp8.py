"""fp8: weights and activations of the language model in float8 (e4m3), one scale a row, by PyTorch's own kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from openvla_ros.errors import ConfigError
from openvla_ros.policy.openvla.precision.base import QuantizedLinear, Scheme

LARGEST = torch.finfo(torch.float8_e4m3fn).max
CAPABILITY = (8, 9)


def scheme(name: str, device: torch.device) -> Scheme:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY:
        found = "the CPU" if device.type == "cpu" else f"{torch.cuda.get_device_name(device)}"
        raise ConfigError(
            f"precision 'fp8' needs an NVIDIA GPU of compute capability 8.9 or more (Ada, Hopper and later), the "
            f"device is {found}: use int8-wo or bf16"
        )
    return Scheme(
        name,
        torch.bfloat16,
        quantizes="llama",
        make=FP8Linear,
        weight_bytes=lambda rows, columns: rows * columns + 4 * rows,
        rounding=1 / 25,  # three bits of mantissa: half a step of 1/8 of a binade, less 448/512, and bf16
        tolerance=0.06,  # activations are rounded as well
        details={"scheme": "float8_e4m3fn", "group_size": "row", "activations": "float8_e4m3fn, one scale a row"},
    )


class FP8Linear(QuantizedLinear):
    codes: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        codes, scales = quantize(weight)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales.t().contiguous(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        codes, scales = quantize(x.flatten(0, -2))
        y: Tensor = torch._scaled_mm(
            codes, self.codes.t(), scale_a=scales, scale_b=self.scales, bias=self.bias, out_dtype=x.dtype
        )
        return y.view(*x.shape[:-1], self.out_features)

    def dequantized(self) -> Tensor:
        return (self.codes.float() * self.scales.t()).to(self.dtype)


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """((N, K) float8, (N, 1) float32 scales) of (N, K): the largest of a row becomes the largest float8."""
    wide = x.float()
    scales = wide.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / LARGEST
    return (wide / scales).to(torch.float8_e4m3fn), scales
