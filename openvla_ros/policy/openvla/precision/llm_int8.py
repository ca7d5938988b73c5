"""int8: LLM.int8() of bitsandbytes, as in the paper. Weights and activations in 8 bits, outlier columns in bf16."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from openvla_ros.policy.openvla.precision.base import QuantizedLinear, Scheme, missing_extra

# Activations beyond this stay in bf16 with their column of the weight: the default of bitsandbytes and transformers.
THRESHOLD = 6.0


def scheme(name: str, device: torch.device) -> Scheme:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise missing_extra(name, "bitsandbytes", error) from error
    # It warns at every multiplication that activations are cast to float16 on their way to 8 bits.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return Scheme(
        name,
        torch.bfloat16,
        quantizes="all",
        make=Int8Linear,
        weight_bytes=lambda rows, columns: rows * columns + 4 * rows,
        rounding=1 / 120,  # half a step of 1/127, and half one of bf16: 1/256 just above a power of two
        tolerance=0.05,  # activations are rounded as well
        rows_independent=False,  # the columns with outliers are found over all rows, and counted on the host
        details={"scheme": "LLM.int8()", "group_size": "row", "outlier_threshold": THRESHOLD},
        libraries=("bitsandbytes",),
    )


class Int8Linear(QuantizedLinear):
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        import bitsandbytes.functional as bnb
        from bitsandbytes.nn import Int8Params, Linear8bitLt

        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        codes, scales, _ = bnb.int8_vectorwise_quant(weight.to(torch.float16))
        with torch.device("meta"):
            self.inner = Linear8bitLt(
                self.in_features, self.out_features, bias is not None, has_fp16_weights=False, threshold=THRESHOLD
            )
        self.inner.weight = Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
        self.inner.register_parameter("bias", self.bias)
        self.scales = scales
        self.eval()  # while training, bitsandbytes multiplies by dequantized weights

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out

    def dequantized(self) -> Tensor:
        return (self.inner.weight.data.float() * (self.scales[:, None] / 127)).to(self.dtype)
