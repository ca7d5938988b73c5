"""Llama with a key-value cache that is allocated once. Shapes are fixed by the caller: nothing here asks the device.

Projections that read the same input are one matrix: fewer, larger reads of memory, which decoding waits for.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_ros.policy.openvla import attention
from openvla_ros.policy.openvla.config import LlamaConfig


def rotary(config: LlamaConfig, count: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (count, 1, head_dim) of the angles at positions 0 to ``count`` - 1."""
    # In float32 whatever the model's precision, as transformers computes them.
    halves = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    angles = torch.outer(torch.arange(count).float(), 1.0 / config.rope_theta**halves).repeat(1, 2)
    return angles.cos()[:, None].to(device, dtype), angles.sin()[:, None].to(device, dtype)


class KVCache:
    """Keys and values of all layers for ``batch`` sequences of up to ``capacity`` positions, and their rotary angles.

    A position that was not written since the sequence began holds leftovers. They are never looked at, but a mask does
    not stop a NaN: after one, ``clear``.
    """

    def __init__(
        self, config: LlamaConfig, capacity: int, device: torch.device, dtype: torch.dtype, batch: int = 1
    ) -> None:
        shape = (config.num_hidden_layers, batch, capacity, config.num_key_value_heads, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.capacity = capacity
        self.slots = torch.arange(capacity, device=device)
        self.sequences = torch.arange(batch, device=device)[:, None]
        self.cos, self.sin = rotary(config, capacity, device, dtype)

    def clear(self) -> None:
        self.keys.zero_()
        self.values.zero_()


class Rows(Protocol):
    """Which positions the rows of one forward pass are, and what they attend to."""

    cos: Tensor
    sin: Tensor

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class PromptRows:
    """Positions 0 to ``count`` - 1 of every sequence. What a shorter one has at its end is overwritten later."""

    def __init__(self, cache: KVCache, count: int) -> None:
        if count > cache.capacity:
            raise ValueError(f"{count} tokens for a cache of {cache.capacity}")
        self.cache, self.count = cache, count
        self.cos, self.sin = cache.cos[:count], cache.sin[:count]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.cache.keys[layer, :, : self.count] = k
        self.cache.values[layer, :, : self.count] = v
        return attention.causal(q, k, v)


class NextRows:
    """``positions`` (B, T), consecutive in each sequence, behind what the cache holds before them."""

    def __init__(self, cache: KVCache, positions: Tensor) -> None:
        self.cache, self.positions = cache, positions
        self.cos, self.sin = cache.cos[positions], cache.sin[positions]
        later = (cache.slots > positions[..., None])[:, None]
        self.mask = self.cos.new_zeros(later.shape).masked_fill_(later, -torch.inf)  # once for all layers
        self.lengths = (positions[:, -1] + 1).to(torch.int32)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.cache.sequences, self.positions] = k
        values[self.cache.sequences, self.positions] = v
        return attention.cached(q, keys, values, self.lengths, self.mask)


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (B, T, heads, head_dim), halves paired as in Hugging Face's Llama."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Fused(nn.Linear):
    """Linear layers of one input as one. parts: their names in the files, and rows, from top to bottom."""

    def __init__(self, width: int, parts: dict[str, int]) -> None:
        super().__init__(width, sum(parts.values()), bias=False)
        self.parts = parts


class LlamaAttention(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        kv_width = self.kv_heads * self.head_dim
        self.qkv_proj = Fused(
            config.hidden_size, {"q_proj": config.hidden_size, "k_proj": kv_width, "v_proj": kv_width}
        )
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, layer: int, rows: Rows) -> Tensor:
        qkv = self.qkv_proj(x).unflatten(-1, (-1, self.head_dim))
        qk, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], dim=2)
        q, k = rotate(qk, rows.cos, rows.sin).split([self.heads, self.kv_heads], dim=2)
        out: Tensor = self.o_proj(rows.attend(layer, q, k, v).flatten(2))
        return out


class LlamaMLP(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width = config.intermediate_size
        self.gate_up_proj = Fused(config.hidden_size, {"gate_proj": width, "up_proj": width})
        self.down_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        out: Tensor = self.down_proj(F.silu(gate) * up)
        return out


class Layer(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, layer: int, rows: Rows) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layer, rows)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class LlamaModel(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def embed(self, token_ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, hidden)."""
        out: Tensor = self.model.embed_tokens(token_ids)
        return out

    def forward(self, embeddings: Tensor, rows: Rows) -> Tensor:
        """(B, T, hidden) embeddings at the positions of ``rows`` -> (B, T, hidden) after the last layer."""
        x = embeddings
        for index, layer in enumerate(self.model.layers):
            x = layer(x, index, rows)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, T, hidden) of forward -> (B, T, vocab) float32."""
        out: Tensor = self.lm_head(self.model.norm(hidden))
        return out.float()
