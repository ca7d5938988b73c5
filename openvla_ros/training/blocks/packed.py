"""One image, several instructions, one pass: the image is computed once, an instruction sees no other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openvla_ros.policy.openvla.llama import rotary
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.processor import BOS

DIMENSIONS = 7  # of an action


class _Rows:
    """What all prompts begin with, then the rest of each: (shared + prompts * own) rows."""

    def __init__(self, cos: Tensor, sin: Tensor, shared: int, prompts: int) -> None:
        self.cos, self.sin = cos, sin
        self._shared, self._prompts = shared, prompts

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, rows, heads, head_dim) each. Nothing is computed of one prompt's rows with another's."""
        parts = [x.transpose(1, 2).split([self._shared, x.shape[1] - self._shared], dim=2) for x in (q, k, v)]
        (qs, qo), (ks, ko), (vs, vo) = parts
        scale = q.shape[-1] ** -0.5
        first = (_causal(qs @ ks.mT * scale)).softmax(dim=-1) @ vs
        of_each = (self._prompts, -1)
        to_shared = (qo @ ks.mT * scale).unflatten(2, of_each)
        to_own = _causal(qo.unflatten(2, of_each) @ ko.unflatten(2, of_each).mT * scale)
        share = torch.cat([to_shared, to_own], dim=-1).softmax(dim=-1)
        of_shared, of_own = share.split([self._shared, to_own.shape[-1]], dim=-1)
        rest = of_shared.flatten(2, 3) @ vs + (of_own @ vo.unflatten(2, of_each)).flatten(2, 3)
        return torch.cat([first, rest], dim=2).transpose(1, 2)


def _causal(scores: Tensor) -> Tensor:
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, -torch.inf)


class PackedInstructions(nn.Module):
    """Logits of the action tokens after each of some prompts, as OpenVLA would give them one prompt at a time."""

    ids: Tensor
    actions_at: Tensor
    positions: Tensor
    answers_at: Tensor
    words_at: Tensor

    def __init__(self, model: OpenVLA, prompts: Sequence[NDArray[np.int64]], words: Sequence[int]) -> None:
        """prompts: ids, BOS first. words: index of a token in each, of which more is wanted: the same in no two."""
        super().__init__()
        image = model.config.patches
        same = _common(prompts, min(words))
        self._shared = image + same  # BOS, image, what all prompts say
        self._prompts = len(prompts)
        self._own = max(len(prompt) for prompt in prompts) - same + DIMENSIONS - 1  # shorter ones have leftovers behind
        ids = [int(i) for i in prompts[0][1:same]]
        actions: list[int] = []
        answers: list[int] = []
        watched: list[int] = []
        for prompt, word in zip(prompts, words, strict=True):
            text = [int(i) for i in prompt[same:]]
            begin = 1 + image + len(ids)  # row
            end = begin + len(text)
            watched.append(begin + word - same)
            answers += range(end - 1, end - 1 + DIMENSIONS)
            actions += range(end - 1 - image, end - 1 - image + DIMENSIONS - 1)  # in the text; the last is never read
            ids += text + [0] * (self._own - len(text))
        own = range(self._shared, self._shared + self._own)
        places = {
            "ids": ids,
            "actions_at": actions,
            "positions": [*range(self._shared), *(list(own) * len(prompts))],
            "answers_at": answers,
            "words_at": watched,
        }
        for name, value in places.items():
            self.register_buffer(name, torch.tensor(value), persistent=False)

    def forward(self, model: OpenVLA, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """features: (B, patches, width) of the towers; actions: (B, prompts, 7) right tokens.

        (B, prompts, 7, vocab) float32 logits; (B, prompts, hidden) what each prompt's last token became, and its word.
        """
        llama, batch = model.language_model, len(features)
        text = self.ids.repeat(batch, 1)
        text[:, self.actions_at] = actions[..., :-1].flatten(1)
        begin = torch.full((batch, 1), BOS, device=text.device)
        x = torch.cat([llama.embed(begin), model.projector(features), llama.embed(text)], dim=1)
        cos, sin = rotary(model.config.llama, self._shared + self._own, x.device, x.dtype)
        rows = _Rows(cos[self.positions], sin[self.positions], self._shared, self._prompts)
        hidden = llama(x, rows)
        answers = hidden[:, self.answers_at].unflatten(1, (self._prompts, DIMENSIONS))
        norm = llama.model.norm
        return llama.logits(answers), norm(answers[:, :, 0]), norm(hidden[:, self.words_at])


def _common(prompts: Sequence[NDArray[np.int64]], most: int) -> int:
    """How many ids all prompts begin with, at most ``most``."""
    heads = [prompt[:most].tolist() for prompt in prompts]
    return next((i for i, ids in enumerate(zip(*heads, strict=False)) if len(set(ids)) > 1), min(map(len, heads)))
