"""Triton kernels: few rows times a weight in 8 or 4 bits, read once and dequantized in registers. CUDA only.

One program computes BLOCK_N outputs of all rows. Sizes are fixed rather than tuned at run time, so that the order of
summation, and with it every bit of the result, is the same in every process.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_N = 32
BLOCK_K = 128


@triton.jit
def _int8(x, codes, scale, y, rows, n, k, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    row = tl.arange(0, BLOCK_M)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, k, BLOCK_K):
        depth = start + tl.arange(0, BLOCK_K)
        a = tl.load(x + row[:, None] * k + depth[None, :], mask=(row[:, None] < rows) & (depth[None, :] < k), other=0.0)
        b = tl.load(
            codes + column[None, :] * k + depth[:, None], mask=(column[None, :] < n) & (depth[:, None] < k), other=0
        )
        total = tl.dot(a, b.to(a.dtype), total)
    total *= tl.load(scale + column, mask=column < n, other=0.0)[None, :]
    tl.store(
        y + row[:, None] * n + column[None, :],
        total.to(y.dtype.element_ty),
        mask=(row[:, None] < rows) & (column[None, :] < n),
    )


@triton.jit
def _int4(
    x, codes, scale, offset, y, rows, n, k, groups, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HALF: tl.constexpr
):
    row = tl.arange(0, BLOCK_M)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    half = tl.arange(0, HALF)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for group in range(groups):
        low = group * 2 * HALF + half
        high = low + HALF
        a_low = tl.load(x + row[:, None] * k + low[None, :], mask=(row[:, None] < rows) & (low[None, :] < k), other=0.0)
        a_high = tl.load(
            x + row[:, None] * k + high[None, :], mask=(row[:, None] < rows) & (high[None, :] < k), other=0.0
        )
        place = column * groups + group
        packed = tl.load(codes + place[None, :] * HALF + half[:, None], mask=column[None, :] < n, other=0)
        part = tl.dot(a_low, (packed & 15).to(a_low.dtype))
        part = tl.dot(a_high, (packed >> 4).to(a_high.dtype), part)
        factor = tl.load(scale + place, mask=column < n, other=0.0)
        shift = tl.load(offset + place, mask=column < n, other=0.0)
        sums = tl.sum(a_low.to(tl.float32), axis=1) + tl.sum(a_high.to(tl.float32), axis=1)
        total += part * factor[None, :] + sums[:, None] * shift[None, :]
    tl.store(
        y + row[:, None] * n + column[None, :],
        total.to(y.dtype.element_ty),
        mask=(row[:, None] < rows) & (column[None, :] < n),
    )


def int8_linear(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """(M, K) times (N, K) int8 with a float32 scale (N,) a row -> (M, N) of x's type."""
    (rows, k), n = x.shape, len(codes)
    y = torch.empty(rows, n, device=x.device, dtype=x.dtype)
    _int8[(triton.cdiv(n, BLOCK_N),)](
        x.contiguous(), codes, scale, y, rows, n, k, _block_m(rows), BLOCK_N, BLOCK_K, num_warps=4,
        num_stages=_stages(rows),
    )  # fmt: skip
    return y


def int4_linear(x: Tensor, codes: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """(M, K) times packed codes (N, groups, group / 2), float32 scale and offset (N, groups) -> (M, N) of x's type."""
    (rows, k), (n, groups, half) = x.shape, codes.shape
    y = torch.empty(rows, n, device=x.device, dtype=x.dtype)
    _int4[(triton.cdiv(n, BLOCK_N),)](
        x.contiguous(), codes, scale, offset, y, rows, n, k, groups, _block_m(rows), BLOCK_N, half, num_warps=4,
        num_stages=_stages(rows),
    )  # fmt: skip
    return y


def _stages(rows: int) -> int:
    """How many blocks are fetched ahead: five, or what fits into the 99 KiB that a program has on a GeForce."""
    return 5 if rows <= 32 else 3


def _block_m(rows: int) -> int:
    return max(16, triton.next_power_of_2(rows))  # tensor cores take 16 rows at least
