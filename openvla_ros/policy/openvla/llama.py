"""A Llama for one sequence at a time, with a key-value cache that is allocated once, and Hugging Face's names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_ros.policy.openvla.config import LlamaConfig


class KVCache:
    """Keys and values of all layers for up to ``capacity`` positions, and the rotary angles of those positions.

    length: positions filled so far. Starting a new sequence is ``length = 0``: nothing needs clearing, because
    positions from ``length`` on are never read.
    """

    def __init__(self, config: LlamaConfig, capacity: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.num_hidden_layers, 1, config.num_key_value_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.capacity = capacity
        self.length = 0
        # Angles in float32 whatever the model's precision, as transformers computes them.
        halves = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
        angles = torch.outer(torch.arange(capacity).float(), 1.0 / config.rope_theta**halves).repeat(1, 2)
        self.cos = angles.cos().to(device, dtype)
        self.sin = angles.sin().to(device, dtype)


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * x32.to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (B, heads, T, head_dim) by angles (T, head_dim), halves paired as in Hugging Face's Llama."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.grouped = config.num_key_value_heads != config.num_attention_heads
        kv_width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, layer: int, cache: KVCache) -> Tensor:
        batch, tokens, width = x.shape
        start, end = cache.length, cache.length + tokens
        q, k, v = (
            p(x).view(batch, tokens, -1, self.head_dim).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        cos, sin = cache.cos[start:end], cache.sin[start:end]
        cache.keys[layer, :, :, start:end] = rotate(k, cos, sin)
        cache.values[layer, :, :, start:end] = v
        y = F.scaled_dot_product_attention(
            rotate(q, cos, sin),
            cache.keys[layer, :, :, :end],
            cache.values[layer, :, :, :end],
            is_causal=tokens > 1,  # a prompt starts at position 0; a single new token may see everything
            enable_gqa=self.grouped,
        )
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, tokens, width))
        return out


class MLP(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, layer: int, cache: KVCache) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layer, cache)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def embed(self, token_ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, hidden)."""
        out: Tensor = self.model.embed_tokens(token_ids)
        return out

    def forward(self, embeddings: Tensor, cache: KVCache) -> Tensor:
        """Append (1, T, hidden) to the cached sequence; return the float32 logits (vocab,) after its last token.

        T > 1 only on an empty cache (a prompt); then one token at a time.
        """
        tokens = embeddings.shape[1]
        if (tokens > 1 and cache.length) or cache.length + tokens > cache.capacity:
            raise ValueError(f"{tokens} tokens at position {cache.length} of a cache for {cache.capacity}")
        x = embeddings
        for index, layer in enumerate(self.model.layers):
            x = layer(x, index, cache)
        cache.length += tokens
        logits: Tensor = self.lm_head(self.model.norm(x[0, -1]))
        return logits.float()
