"""One image, several instructions, one pass: the image is computed once, an instruction sees no other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_ros.policy.openvla.llama import rotary
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.processor import BOS

DIMENSIONS = 7  # of an action


class _Rows:
    """Rows of all instructions, with the mask that keeps them apart."""

    def __init__(self, cos: Tensor, sin: Tensor, mask: Tensor) -> None:
        self.cos, self.sin, self._mask = cos, sin, mask

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask).transpose(1, 2)


class PackedInstructions(nn.Module):
    """Logits of the action tokens after each of some prompts, as OpenVLA would give them one prompt at a time."""

    ids: Tensor
    actions_at: Tensor
    positions: Tensor
    mask: Tensor
    answers_at: Tensor
    words_at: Tensor

    def __init__(self, model: OpenVLA, prompts: Sequence[NDArray[np.int64]], words: Sequence[int]) -> None:
        """prompts: ids, BOS first. words: index of a token in each, of which more is wanted."""
        super().__init__()
        head = 1 + model.config.patches
        ids: list[int] = []
        positions = list(range(head))
        owners = [-1] * head
        answers: list[int] = []
        watched: list[int] = []
        for owner, (prompt, word) in enumerate(zip(prompts, words, strict=True)):
            begin, text = head + len(ids), [int(i) for i in prompt[1:]]
            length = len(text) + DIMENSIONS - 1  # the last action token is predicted, never read
            ids += text + [-1] * (DIMENSIONS - 1)
            positions += range(head, head + length)
            owners += [owner] * length
            watched.append(begin + word - 1)
            answers += range(begin + len(text) - 1, begin + length)
        row, owner_of = torch.arange(len(owners)), torch.tensor(owners)
        allowed = (row[:, None] >= row) & ((owner_of == -1) | (owner_of == owner_of[:, None]))
        tokens = torch.tensor(ids)
        places = {
            "ids": tokens.clamp(min=0),
            "actions_at": (tokens < 0).nonzero()[:, 0],
            "positions": torch.tensor(positions),
            "mask": torch.zeros(allowed.shape).masked_fill_(~allowed, -torch.inf),
            "answers_at": torch.tensor(answers),
            "words_at": torch.tensor(watched),
        }
        for name, value in places.items():
            self.register_buffer(name, value, persistent=False)
        self._count = len(prompts)

    def forward(self, model: OpenVLA, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """features: (B, patches, width) of the towers; actions: (B, prompts, 7) right tokens.

        (B, prompts, 7, vocab) float32 logits; (B, prompts, hidden) what each prompt's last token became, and its word.
        """
        llama, batch = model.language_model, len(features)
        text = self.ids.expand(batch, -1).clone()
        text[:, self.actions_at] = actions[..., :-1].flatten(1)
        begin = torch.full((batch, 1), BOS, device=text.device)
        x = torch.cat([llama.embed(begin), model.projector(features), llama.embed(text)], dim=1)
        cos, sin = rotary(model.config.llama, int(self.positions.max()) + 1, x.device, x.dtype)
        rows = _Rows(cos[self.positions], sin[self.positions], self.mask.to(x.dtype))
        hidden = llama(x, rows)
        answers = hidden[:, self.answers_at].unflatten(1, (self._count, DIMENSIONS))
        norm = llama.model.norm
        return llama.logits(answers), norm(answers[:, :, 0]), norm(hidden[:, self.words_at])
