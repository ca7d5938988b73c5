"""OpenVLA: two vision towers, a projector, a Llama, and greedy decoding of action tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_ros.policy.openvla.config import OpenVLAConfig
from openvla_ros.policy.openvla.llama import KVCache, Llama
from openvla_ros.policy.openvla.vision import Tower


class VisionBackbone(nn.Module):
    """(B, 3 * towers, 224, 224) pixels -> (B, 256, feature_dim): both towers' features of a patch side by side."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        self.featurizer = Tower(config.towers[0])
        self.fused_featurizer = Tower(config.towers[1]) if len(config.towers) == 2 else None

    def forward(self, pixel_values: Tensor) -> Tensor:
        if self.fused_featurizer is None:
            features: Tensor = self.featurizer(pixel_values)
            return features
        first, second = pixel_values.split(3, dim=1)
        return torch.cat([self.featurizer(first), self.fused_featurizer(second)], dim=-1)


class Projector(nn.Module):
    """Patch features to language-model embeddings. Three layers behind fused towers, two behind a single one."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        fused, width, hidden = len(config.towers) == 2, config.feature_dim, config.llama.hidden_size
        self.fc1 = nn.Linear(width, 4 * width if fused else hidden)
        self.fc2 = nn.Linear(4 * width if fused else hidden, hidden)
        self.fc3 = nn.Linear(hidden, hidden) if fused else None

    def forward(self, features: Tensor) -> Tensor:
        x: Tensor = self.fc2(F.gelu(self.fc1(features)))
        return x if self.fc3 is None else self.fc3(F.gelu(x))


@dataclass(frozen=True)
class Decoded:
    """Greedily generated token_ids (n,) and the float32 logits (n, vocab) that each was chosen from."""

    token_ids: Tensor
    logits: Tensor


class OpenVLA(nn.Module):
    """The whole model, for one image and one prompt at a time. Parameter names are those of the released files."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_backbone = VisionBackbone(config)
        self.projector = Projector(config)
        self.language_model = Llama(config.llama)

    def new_cache(self, prompt_tokens: int, new_tokens: int) -> KVCache:
        """A cache for the image patches, a prompt of ``prompt_tokens`` ids and ``new_tokens`` generated ones."""
        weight = self.language_model.lm_head.weight
        capacity = self.config.patches + prompt_tokens + new_tokens
        return KVCache(self.config.llama, capacity, weight.device, weight.dtype)

    @torch.inference_mode()
    def image_embeddings(self, pixel_values: Tensor) -> Tensor:
        """(1, 3 * towers, 224, 224) normalised pixels -> (1, 256, hidden)."""
        out: Tensor = self.projector(self.vision_backbone(pixel_values))
        return out

    @torch.inference_mode()
    def prefill(self, image_embeddings: Tensor, input_ids: Tensor, cache: KVCache) -> Tensor:
        """Logits (vocab,) after [BOS, 256 image patches, rest of the prompt], from an empty cache.

        input_ids: (1, T), BOS first. No attention mask: one sequence without padding needs none.
        """
        text = self.language_model.embed(input_ids)
        cache.length = 0
        out: Tensor = self.language_model(torch.cat([text[:, :1], image_embeddings, text[:, 1:]], dim=1), cache)
        return out

    @torch.inference_mode()
    def decode(self, first_logits: Tensor, count: int, cache: KVCache) -> Decoded:
        """``count`` greedy tokens, each the argmax over the whole vocabulary in float32: nothing is masked out."""
        logits = [first_logits]
        tokens = [first_logits.argmax()]
        for _ in range(count - 1):
            logits.append(self.language_model(self.language_model.embed(tokens[-1].view(1, 1)), cache))
            tokens.append(logits[-1].argmax())
        return Decoded(torch.stack(tokens), torch.stack(logits))
