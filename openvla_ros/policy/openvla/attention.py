"""Attention over (batch, tokens, heads, head_dim): flash-attn where it is installed, else PyTorch's own (SDPA)."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_HALF = (torch.float16, torch.bfloat16)
_INSTALLED = find_spec("flash_attn") is not None


def name(device: torch.device, dtype: torch.dtype) -> str:
    """Which implementation runs, with its version, for logs and records."""
    return f"flash-attn {version('flash_attn')}" if _flash(device, dtype) else "SDPA"


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each token attends to itself and those before it: a whole sequence from its first token on."""
    if _flash(q.device, q.dtype):
        out: Tensor = import_module("flash_attn").flash_attn_func(q, k, v, causal=True)
        return out
    return _sdpa(q, k, v, is_causal=True)


def cached(q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
    """The last tokens of sequences whose keys and values, theirs included, are in a cache.

    lengths: (B,) int32, filled positions of each sequence, q's included. mask: (B, 1, tokens, capacity), 0 where a
    token may look, else minus infinity. Both say the same: flash-attn wants the one, SDPA the other.
    """
    if _flash(q.device, q.dtype):
        attend: Any = import_module("flash_attn").flash_attn_with_kvcache
        out: Tensor = attend(q, keys, values, cache_seqlens=lengths, causal=True)
        return out
    return _sdpa(q, keys, values, attn_mask=mask)


def _flash(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype in _HALF and _INSTALLED


def _sdpa(q: Tensor, k: Tensor, v: Tensor, **mask: Any) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1], **mask).transpose(1, 2)
