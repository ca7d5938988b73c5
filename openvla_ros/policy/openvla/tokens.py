"""Action numbers as tokens: 256 bins on [-1, 1], written with the last 256 ids of the tokenizer's vocabulary."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


class ActionTokenizer:
    """Between normalised actions and token ids.

    vocab_size: the tokenizer's vocabulary without padding (32000). The ids vocab_size - bins .. vocab_size - 1 are
    action tokens, in falling order of value. bins edges bound bins - 1 intervals, so the two lowest ids share a value.
    """

    def __init__(self, vocab_size: int = 32000, bins: int = 256) -> None:
        self.vocab_size = vocab_size
        self.bins = np.linspace(-1.0, 1.0, bins)
        self.bin_centers = (self.bins[:-1] + self.bins[1:]) / 2.0

    def encode(self, normalized: ArrayLike) -> NDArray[np.int64]:
        """Token ids of normalised actions, any shape. Values beyond [-1, 1] become its ends.

        NaN becomes +1, as in the official code that trained the checkpoints: check that labels are finite before.
        """
        return self.vocab_size - np.digitize(np.clip(normalized, -1.0, 1.0), self.bins)

    def decode(self, token_ids: ArrayLike) -> NDArray[np.float64]:
        """Bin centres in [-0.9961, 0.9961] of token ids, any shape. Ids that are no action tokens become the ends."""
        index = np.clip(self.vocab_size - np.asarray(token_ids) - 1, 0, len(self.bin_centers) - 1)
        return self.bin_centers[index]

    def count_outside(self, token_ids: ArrayLike) -> int:
        """How many ids are no action tokens."""
        ids = np.asarray(token_ids)
        return int(np.sum((ids < self.vocab_size - len(self.bins)) | (ids >= self.vocab_size)))
