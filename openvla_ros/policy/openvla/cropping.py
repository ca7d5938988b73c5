"""Crop and enlarge as TensorFlow's crop_and_resize does: OpenVLA's image augmentation, and its counterpart later."""

from __future__ import annotations

import torch
from torch import Tensor


def crop_and_resize(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """(B, H, W, C) float -> (B, size, size, C): the parts in the boxes (B, 4), bilinear, corners on corners.

    boxes: top, left, bottom, right as shares of H - 1 and W - 1.
    """
    rows = _between(boxes[:, 0], boxes[:, 2], size, images.shape[1])
    columns = _between(boxes[:, 1], boxes[:, 3], size, images.shape[2])
    return _interpolate(_interpolate(images, rows, 1), columns, 2)


def center_box(area: float) -> Tensor:
    """(1, 4) box of a square in the middle with this share of the area."""
    margin = (1 - area**0.5) / 2
    return torch.tensor([[margin, margin, 1 - margin, 1 - margin]])


def to_uint8(images: Tensor) -> Tensor:
    """Values from 0 to 1 as TensorFlow turns them into bytes."""
    return (images * 255.5).clamp(0, 255).to(torch.uint8)


def _between(first: Tensor, last: Tensor, count: int, length: int) -> Tensor:
    """(B, count) evenly spaced positions on an axis of that length."""
    steps = torch.arange(count, device=first.device, dtype=torch.float32)
    scale = (last - first) * (length - 1) / (count - 1)
    return (first[:, None] * (length - 1) + steps * scale[:, None]).clamp(0, length - 1)


def _interpolate(images: Tensor, positions: Tensor, axis: int) -> Tensor:
    lower = positions.floor()
    shape = [len(positions), 1, 1, 1]
    shape[axis] = positions.shape[1]
    share = (positions - lower).view(shape)
    index = lower.long()
    ahead = (index + 1).clamp(max=images.shape[axis] - 1)
    low, high = (_take(images, i.view(shape), axis) for i in (index, ahead))
    return low + (high - low) * share


def _take(images: Tensor, index: Tensor, axis: int) -> Tensor:
    wanted = list(images.shape)
    wanted[axis] = index.shape[axis]
    return images.gather(axis, index.expand(wanted))
