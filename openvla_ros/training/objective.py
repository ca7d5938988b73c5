"""What is minimised, and what is reported beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from openvla_ros.policy.openvla.statistics import ActionStatistics
from openvla_ros.policy.openvla.tokens import ActionTokenizer
from openvla_ros.types import Array


class Objective:
    """Cross-entropy of action tokens and of the end of the sequence, over the whole vocabulary, all with one weight.

    smoothing: standard deviation [bins] of a bell of neighbouring action tokens that share a target, 0 for the target
    alone: a token that is off by one bin is then better than one that is off by a hundred.
    """

    def __init__(self, tokenizer: ActionTokenizer, smoothing: float, device: torch.device) -> None:
        self._first = tokenizer.vocab_size - len(tokenizer.bins)
        self._bell: Tensor | None = None
        if smoothing:
            bins = torch.arange(len(tokenizer.bins), device=device)
            self._bell = torch.softmax(-0.5 * ((bins[:, None] - bins) / smoothing) ** 2, dim=1)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over (B, n + 1) targets, of logits (B, n + 1, vocab)."""
        if self._bell is None:
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        log = torch.log_softmax(logits, dim=-1)
        bins = slice(self._first, self._first + len(self._bell))
        actions = -(self._bell[targets[:, :-1] - self._first] * log[:, :-1, bins]).sum(dim=-1)
        end = -log[:, -1:].gather(2, targets[:, -1:, None])[..., 0]
        return torch.cat([actions, end], dim=1).mean()


@dataclass(frozen=True)
class Scores:
    """Sums over ``count`` examples: loss (), right tokens (n,), distance (n,) from the labels in the action's units."""

    count: int
    loss: Tensor
    right: Tensor
    distance: Tensor

    def __add__(self, other: Scores) -> Scores:
        return Scores(
            self.count + other.count,
            self.loss + other.loss,
            self.right + other.right,
            self.distance + other.distance,
        )

    def means(self) -> tuple[float, Array, Array]:
        """(loss, token accuracy (n,), L1 (n,))."""
        right, distance = (x.double().cpu().numpy() / self.count for x in (self.right, self.distance))
        return float(self.loss) / self.count, right, distance


class Scorer:
    """Scores of the likeliest tokens, each given the right ones before it."""

    def __init__(self, tokenizer: ActionTokenizer, statistics: ActionStatistics, device: torch.device) -> None:
        ids = np.arange(tokenizer.vocab_size + 1)
        values = statistics.unnormalize(np.repeat(tokenizer.decode(ids)[:, None], statistics.dim, axis=1))
        self._values = torch.from_numpy(values).float().to(device)  # (ids, n); all beyond the vocabulary are alike

    @torch.no_grad()
    def __call__(self, loss: Tensor, logits: Tensor, targets: Tensor, actions: Tensor) -> Scores:
        count, n = actions.shape
        best = logits[:, :n].argmax(dim=-1)
        predicted = self._values.gather(0, best.clamp(max=len(self._values) - 1))
        return Scores(
            count,
            loss.detach() * count,
            (best == targets[:, :n]).sum(dim=0),
            (predicted - actions).abs().sum(dim=0),
        )
