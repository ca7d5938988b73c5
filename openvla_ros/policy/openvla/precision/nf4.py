"""int4: NF4 of bitsandbytes, as in the paper, with bf16 compute. Blocks of 64 weights share a float32 scale."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from openvla_ros.policy.openvla.precision.base import QuantizedLinear, Scheme, missing_extra

BLOCK = 64


def scheme(name: str, device: torch.device) -> Scheme:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise missing_extra(name, "bitsandbytes", error) from error
    return Scheme(
        name,
        torch.bfloat16,
        quantizes="all",
        make=NF4Linear,
        weight_bytes=lambda rows, columns: rows * columns // 2 + 4 * -(-rows * columns // BLOCK),
        rounding=0.16,  # half of NF4's widest gap, 0.304 of the block's scale, and bf16
        tolerance=0.01,
        details={"scheme": "NF4", "group_size": BLOCK, "double_quantization": False},
        libraries=("bitsandbytes",),
    )


class NF4Linear(QuantizedLinear):
    """Blocks follow the weight row by row, across the ends of rows.

    The CPU kernels of bitsandbytes (0.50) give wrong numbers for blocks that cross them (SigLIP's fc2 has rows of
    4304), without an error. Such a weight is kept as a matrix with rows of one block, and multiplied dequantized.
    """

    packed: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        import bitsandbytes.functional as bnb

        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.aligned = self.in_features % BLOCK == 0
        if not self.aligned:
            weight = F.pad(weight.flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
        packed, self.state = bnb.quantize_4bit(
            weight.contiguous(), blocksize=BLOCK, quant_type="nf4", compress_statistics=False
        )
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.aligned:
            return F.linear(x, self.dequantized(), self.bias)
        from bitsandbytes import matmul_4bit

        out: Tensor = matmul_4bit(x, self.packed, quant_state=self.state, bias=self.bias)
        return out

    def dequantized(self) -> Tensor:
        import bitsandbytes.functional as bnb

        weight: Tensor = bnb.dequantize_4bit(self.packed, self.state)
        return weight.flatten()[: self.out_features * self.in_features].view(self.out_features, self.in_features)
