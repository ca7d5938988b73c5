"""Initial weights of a model that is trained from nothing."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from openvla_ros.policy.openvla.config import OpenVLAConfig
from openvla_ros.policy.openvla.loading import build_model, expected_shapes
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.precision import scheme_for


def random_model(config: OpenVLAConfig, seed: int = 0, std: float = 0.02) -> OpenVLA:
    """A float32 model on the CPU with random weights."""
    return build_model(config, RandomWeights(config, seed, std), scheme_for("float32", torch.device("cpu")))


class RandomWeights:
    """Initial weights, the same for a name and a seed: matrices and embeddings normal with ``std``, norms 1, biases 0.

    LayerScale starts at 1. DINOv2's 1e-5 keeps blocks silent at first: good for depth 24, too slow for a few blocks.
    """

    def __init__(self, config: OpenVLAConfig, seed: int = 0, std: float = 0.02) -> None:
        used, unused = expected_shapes(config)
        self._shapes, self._seed, self._std = used | unused, seed, std

    def tensor(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if len(shape) == 1:
            return torch.full(shape, 0.0 if name.endswith("bias") else 1.0)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self._seed} {name}".encode()))
        return torch.randn(shape, generator=generator).mul_(self._std)
