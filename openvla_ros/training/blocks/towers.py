"""The vision towers' own stage: where is everything? Light heads read it off the patches and are thrown away after."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_ros.policy.openvla.model import VisionBackbone
from openvla_ros.policy.openvla.vision import Tower
from openvla_ros.training.blocks.view import POINTS, STATE

EXPLAINED = 3e-4  # share of the largest variance that is added to all, so that noise is not blown up
NEIGHBOURHOOD = 0.3  # patches: how far beyond a point's own patch offsets to it are learned
SHARP = 0.03  # standard deviations below which an error's cost is quadratic
LEAVING = 0.3  # share of what a block adds to its input at the beginning


class Heads(nn.Module):
    """(B, patches, width) features -> per patch and point (B, patches, POINTS, 3), and the state by every patch.

    Of a point: logit that the patch has it inside, and its offset from the patch's middle in patches.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.local = nn.Linear(width, 3 * len(POINTS))
        self.state = nn.Linear(width, len(STATE))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(features)
        return self.local(x).unflatten(-1, (len(POINTS), 3)).float(), self.state(x).float()


class DenseLoss(nn.Module):
    """What the towers know of a scene, as a loss. states and pixels are those of the whole training set."""

    middles: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
        self.side = side
        self.register_buffer("middles", torch.stack([x, y], dim=-1).view(side * side, 1, 2), persistent=False)

    def forward(self, local: Tensor, state: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
        """local, state: of Heads. seen: (B, POINTS, 2) shares of the image; wanted: (B, STATE) standardised."""
        offset = seen[:, None].float() * self.side - self.middles.float()
        beyond = offset.abs().amax(dim=-1) - 0.5
        near = torch.exp(-((beyond.clamp(min=0) / NEIGHBOURHOOD) ** 2) / 2)
        inside = F.binary_cross_entropy_with_logits(local[..., 0], (beyond < 0).float(), reduction="none")
        where = ((local[..., 1:] - offset).abs().sum(dim=-1) * near).sum() / near.sum().clamp(min=1)
        each = F.smooth_l1_loss(state, wanted[:, None].expand_as(state), beta=SHARP)
        together = F.smooth_l1_loss(state.mean(dim=1), wanted, beta=SHARP)
        return inside.sum(dim=(1, 2)).mean() + where + 4 * each + 4 * together


def initialise(backbone: VisionBackbone, pixels: Tensor, seen: Tensor) -> None:
    """Weights to begin with. pixels: (B, 3 * towers, size, size) of some images; seen: (B, POINTS, 2) of DenseLoss.

    Patch embeddings whiten the images' own patches, those with something in them counting more; positions are sines
    and cosines. From there a tower learns to see in a tenth of the steps that it takes from noise.
    """
    for layer in backbone.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.6 / math.sqrt(layer.in_features))
    towers = [t for t in (backbone.featurizer, backbone.fused_featurizer) if t is not None]
    with torch.no_grad():
        for tower, part in zip(towers, pixels.split(3, dim=1), strict=True):
            for name, weight in tower.named_parameters():
                if name.endswith(("attn.proj.weight", "mlp.fc2.weight")):
                    weight.mul_(LEAVING)
            _whiten(tower, part, seen)
            if tower.prefix_tokens:
                tower.cls_token.normal_(std=0.5)
                tower.reg_token.normal_(std=0.5)


def _whiten(tower: Tower, pixels: Tensor, seen: Tensor) -> None:
    convolution = tower.patch_embed.proj
    size = convolution.kernel_size[0]
    patches = F.unfold(pixels, size, stride=size).transpose(1, 2)  # (B, patches, 3 * size * size)
    side = math.isqrt(patches.shape[1])
    at = (seen * side).floor().long()
    visible = ((at >= 0) & (at < side)).all(dim=-1)
    image = torch.arange(len(at), device=at.device)[:, None].expand_as(visible)[visible]
    interesting = patches[image, at[visible][:, 1] * side + at[visible][:, 0]]
    some = patches.flatten(0, 1)
    sample = torch.cat([some[torch.randperm(len(some))[:20_000]], interesting]).double()
    mean = sample.mean(dim=0)
    centred = sample - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(sample))
    width = convolution.out_channels
    variances, directions = variances.flip(0)[:width], directions.flip(1)[:, :width]
    filters = 0.5 * (directions / (variances + EXPLAINED * variances[0]).sqrt()).T
    if len(filters) < width:  # more features than a patch has pixels
        filters = F.pad(filters, (0, 0, 0, width - len(filters)))
    convolution.weight.copy_(filters.view_as(convolution.weight))
    assert convolution.bias is not None
    convolution.bias.copy_(-(filters @ mean))
    tower.pos_embed.copy_(0.5 * _positions(side, width))


def _positions(side: int, width: int) -> Tensor:
    """(1, side * side, width) sines and cosines of x and of y; a width that 4 does not divide ends in zeros."""
    y, x = np.mgrid[:side, :side]
    frequencies = np.pi * 2.0 ** np.linspace(-1, 2, width // 4)
    angles = [np.outer((c.ravel() + 0.5) / side, frequencies) for c in (x, y)]
    table = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1)
    padded = np.pad(table, ((0, 0), (0, width - table.shape[1])))
    return torch.from_numpy(padded).float()[None]
