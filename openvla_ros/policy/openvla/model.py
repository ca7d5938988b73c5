"""OpenVLA: two vision towers, a projector, a Llama. Decoding is in decoding.py."""

from __future__ import annotations

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


class OpenVLA(nn.Module):
    """The whole model. Parameter names are those of the released files, but for the fused ones of the Llama."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_backbone = VisionBackbone(config)
        self.projector = Projector(config)
        self.language_model = Llama(config.llama)

    def new_cache(self, capacity: int, batch: int = 1) -> KVCache:
        """A cache of ``capacity`` positions for each of ``batch`` sequences, on the model's device."""
        weight = self.language_model.lm_head.weight
        return KVCache(self.config.llama, capacity, weight.device, weight.dtype, batch)

    def image_embeddings(self, pixel_values: Tensor) -> Tensor:
        """(B, 3 * towers, 224, 224) normalised pixels -> (B, 256, hidden)."""
        out: Tensor = self.projector(self.vision_backbone(pixel_values))
        return out

    def sequence(self, image_embeddings: Tensor, text_ids: Tensor) -> Tensor:
        """(B, 256 + T, hidden) input of the language model: BOS, the image patches, the rest of the (B, T) text ids."""
        text = self.language_model.embed(text_ids)
        return torch.cat([text[:, :1], image_embeddings, text[:, 1:]], dim=1)
