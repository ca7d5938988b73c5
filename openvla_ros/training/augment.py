"""OpenVLA's image augmentation, a batch at a time on the device: crop, brightness, contrast, saturation, hue.

Each operation and its range is TensorFlow's (tf.image), which the released models were fine-tuned with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openvla_ros.policy.openvla.cropping import center_box, crop_and_resize, to_uint8
from openvla_ros.training.examples import Integers
from openvla_ros.training.settings import Augmentation

_STREAM = 1  # of random numbers: apart from the order of the examples


@dataclass(frozen=True)
class Changes:
    """What happens to each of B images: boxes (B, 4), the others (B,)."""

    boxes: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor

    def to(self, device: torch.device) -> Changes:
        return Changes(**{name: values.to(device) for name, values in vars(self).items()})


def draw(augmentation: Augmentation, seed: int, numbers: Integers) -> Changes:
    """Changes for the draws with these numbers (B,): always the same for a number, whatever came before it."""
    u = np.stack([np.random.default_rng([seed, _STREAM, number]).random(6) for number in numbers]).astype(np.float32)
    side = np.float32(augmentation.crop_area**0.5)
    top, left = (u[:, i] * (1 - side) for i in (0, 1))
    swing = 2 * u[:, 2:] - 1  # from -1 to 1
    return Changes(
        boxes=torch.from_numpy(np.stack([top, left, top + side, left + side], axis=1)),
        brightness=torch.from_numpy(swing[:, 0] * augmentation.brightness),
        contrast=torch.from_numpy(1 + swing[:, 1] * augmentation.contrast),
        saturation=torch.from_numpy(1 + swing[:, 2] * augmentation.saturation),
        hue=torch.from_numpy(swing[:, 3] * augmentation.hue),
    )


def apply(images: Tensor, changes: Changes) -> Tensor:
    """(B, size, size, 3) uint8 -> the same, changed."""
    x = crop_and_resize(images.float() / 255, changes.boxes, images.shape[1]).clamp(0, 1)
    x = (x + _each(changes.brightness)).clamp(0, 1)
    mean = x.mean(dim=(1, 2), keepdim=True)
    x = (mean + (x - mean) * _each(changes.contrast)).clamp(0, 1)
    return to_uint8(_turn_hue(_saturate(x, changes.saturation), changes.hue).clamp(0, 1))


def crop_middle(images: Tensor, area: float) -> Tensor:
    """(B, size, size, 3) uint8 -> the same, cropped as ImageProcessor does for a checkpoint's center_crop."""
    if area == 1:
        return images
    boxes = center_box(area).to(images.device).expand(len(images), -1)
    return to_uint8(crop_and_resize(images.float() / 255, boxes, images.shape[1]))


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _saturate(x: Tensor, factor: Tensor) -> Tensor:
    """Saturation (max - min) / max times factor, 1 at most; the largest channel and the hue stay."""
    largest = x.amax(dim=-1, keepdim=True)
    distance = largest - x
    saturation = distance.amax(dim=-1, keepdim=True) / largest.clamp_min(1e-12)
    return largest - distance * torch.minimum(_each(factor), 1 / saturation.clamp_min(1e-12))


def _turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Hue of the HSV colour, shifted by this share of a full turn; the largest and smallest channel values stay."""
    red, green, blue = x.unbind(-1)
    largest, smallest = x.amax(dim=-1), x.amin(dim=-1)
    span = (largest - smallest).clamp_min(1e-12)
    sixths = torch.where(
        largest == red,
        (green - blue) / span,
        torch.where(largest == green, 2 + (blue - red) / span, 4 + (red - green) / span),
    )
    sixths = sixths + 6 * turn.view(-1, 1, 1)
    # How far a channel is from its own peak on the circle decides where it lies between smallest and largest.
    channels = [
        smallest + (largest - smallest) * (1 - shade)
        for shade in (
            _distance(sixths, 0.0).sub(1).clamp(0, 1),
            _distance(sixths, 2.0).sub(1).clamp(0, 1),
            _distance(sixths, 4.0).sub(1).clamp(0, 1),
        )
    ]
    return torch.stack(channels, dim=-1)


def _distance(sixths: Tensor, peak: float) -> Tensor:
    """On a circle of 6, from 0 to 3."""
    return (torch.remainder(sixths - peak + 3, 6) - 3).abs()
