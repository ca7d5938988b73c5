"""The two vision towers, DINOv2 (ViT-L/14 with registers) and SigLIP (SO400M/14), with timm's parameter names.

OpenVLA reads the patch tokens after the last but one block, before any final norm. The last block, the norm and
SigLIP's pooling head are in the files but never used: they are neither built nor loaded here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_ros.policy.openvla.config import TowerConfig


class VisionAttention(nn.Module):
    def __init__(self, tower: TowerConfig) -> None:
        super().__init__()
        self.num_heads = tower.num_heads
        self.qkv = nn.Linear(tower.embed_dim, 3 * tower.embed_dim)
        self.proj = nn.Linear(tower.embed_dim, tower.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(batch, tokens, width))
        return out


class VisionMLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))  # exact GELU, not the tanh approximation
        return out


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.empty(width))  # timm's gamma, under the name that the files have

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class Block(nn.Module):
    def __init__(self, tower: TowerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(tower.embed_dim, eps=tower.norm_eps)
        self.attn = VisionAttention(tower)
        self.norm2 = nn.LayerNorm(tower.embed_dim, eps=tower.norm_eps)
        self.mlp = VisionMLP(tower.embed_dim, tower.mlp_dim)
        self.ls1, self.ls2 = (LayerScale(tower.embed_dim) if tower.layer_scale else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, tower: TowerConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, tower.embed_dim, kernel_size=tower.patch_size, stride=tower.patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)


class Tower(nn.Module):
    """(B, 3, 224, 224) normalised pixels -> (B, 256, embed_dim) patch features, patches row by row."""

    def __init__(self, tower: TowerConfig) -> None:
        super().__init__()
        self.prefix_tokens = tower.prefix_tokens
        self.patch_embed = PatchEmbed(tower)
        self.pos_embed = nn.Parameter(torch.empty(1, tower.patches, tower.embed_dim))
        if tower.prefix_tokens:
            self.cls_token = nn.Parameter(torch.empty(1, 1, tower.embed_dim))
            self.reg_token = nn.Parameter(torch.empty(1, tower.prefix_tokens - 1, tower.embed_dim))
        self.blocks = nn.ModuleList(Block(tower) for _ in range(tower.depth - 1))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed(pixels) + self.pos_embed
        if self.prefix_tokens:  # these carry no position
            prefix = torch.cat([self.cls_token, self.reg_token], dim=1)
            x = torch.cat([prefix.expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return x[:, self.prefix_tokens :]


class _AttentionPool(nn.Module):
    """SigLIP's pooling head: names and shapes only."""

    def __init__(self, tower: TowerConfig) -> None:
        super().__init__()
        width = tower.embed_dim
        self.latent = nn.Parameter(torch.empty(1, 1, width))
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.mlp = VisionMLP(width, tower.mlp_dim)


def unused_shapes(tower: TowerConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of the tower's tensors that checkpoints hold and OpenVLA never uses."""
    with torch.device("meta"):
        parts = {f"blocks.{tower.depth - 1}": Block(tower), "norm": nn.LayerNorm(tower.embed_dim)}
        if tower.attention_pool:
            parts["attn_pool"] = _AttentionPool(tower)
    return {f"{p}.{key}": tuple(t.shape) for p, part in parts.items() for key, t in part.state_dict().items()}
