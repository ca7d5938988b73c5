"""Greedy decoding of action tokens: plain, and with the previous action as a draft that is verified.

The language model always works on the same few shapes: one prefill of the prompt, padded to a bucket, and steps of one
row for every token but the last. A step computes from guesses of all tokens what greedy decoding puts after each. The
k-th step thus has k more right tokens than the prefill at least, whatever was guessed, and where a step returns its own
guesses, all are right. Plain decoding takes all steps; with a draft one stops when nothing changes any more. Both run
the same kernels on the same shapes, in which no row depends on a later one: they give the same tokens bit by bit, near
ties included.

The draft also rides in the prefill. There its rows go through other kernels (more rows, another order of summation), so
a draft that the prefill confirms is final only where every token leads the next best by more than ``margin``, which
warm-up sets to a multiple of the difference that it sees between the two; else one step confirms it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvla_ros.policy.openvla.graphs import GraphedFunction
from openvla_ros.policy.openvla.llama import KVCache, NextRows, PromptRows
from openvla_ros.policy.openvla.model import OpenVLA

# Rows for text and draft that a prompt is padded to where graphs are recorded.
BUCKETS = (32, 64, 96, 128)
# Two logits may differ between prefill and step by twice what was seen, in opposite directions.
SAFETY = 4.0

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Decoded:
    """token_ids (B, n), the float32 logits (B, n, vocab) they were chosen from, and language-model passes taken."""

    token_ids: Tensor
    logits: Tensor
    passes: int


class Decoder:
    """Decodes ``count`` tokens after each of as many prompts as ``cache`` has room for. Several may share a cache."""

    def __init__(self, model: OpenVLA, cache: KVCache, count: int, *, buckets: Sequence[int] = ()) -> None:
        self.model, self.count, self.buckets = model, count, tuple(buckets)
        self.margin: float | None = None  # until calibrated, the prefill confirms nothing
        self.use_graphs = True
        self._riders = count - 1
        self._cache = cache
        self._device = cache.slots.device
        self._ahead = torch.arange(count, device=self._device)
        self._prefill_graphs: dict[int, GraphedFunction[tuple[Tensor, Tensor]]] = {}
        self._step_graph: GraphedFunction[tuple[Tensor, Tensor]] | None = None

    @torch.inference_mode()
    def __call__(
        self,
        embeddings: Tensor,
        prompts: Sequence[Ids],
        draft: Ids | None = None,
        stage: Callable[[str], Any] = lambda _: None,
    ) -> Decoded:
        """The greedy tokens after each prompt: (B, 256, hidden) embeddings of the images, ids with BOS first.

        draft: (B, n) tokens that may be right. It changes how long this takes, never the tokens. ``stage`` is called
        with 'prefill' and 'decode' when these have been given to the device.
        """
        self._lengths = torch.tensor([len(ids) for ids in prompts], device=self._device) + self.model.config.patches
        text_ids = self._text(prompts, draft)
        graph = self._prefill_graphs.get(text_ids.shape[1]) if self.use_graphs else None
        logits, best = (graph or self._prefill)(embeddings, text_ids, self._lengths - 1)
        stage("prefill")
        if draft is not None and self._confirmed(logits, best, draft):
            decoded = Decoded(best.clone(), logits.clone(), 1)
        else:
            decoded = self._continue(best, logits, torch.ones_like(self._lengths), look=draft is not None)
        stage("decode")
        return decoded

    @torch.inference_mode()
    def runner_up(self, decoded: Decoded) -> Tensor:
        """(B, n) of the last call's prompts: the action with its least certain token replaced by that one's second.

        Tokens before it stay, those after it are decoded greedily anew. Least certain: the smallest lead.
        """
        best, second = decoded.logits.topk(2, dim=-1).values.unbind(-1)
        at = (best - second).argmin(dim=1, keepdim=True)
        logits = decoded.logits.scatter(2, decoded.token_ids[..., None], -torch.inf)
        tokens = torch.where(self._ahead == at, logits.argmax(dim=-1), decoded.token_ids)
        return self._continue(tokens, decoded.logits, at[:, 0] + 1, look=True).token_ids

    @torch.inference_mode()
    def calibrate(self, embeddings: Tensor, prompts: Sequence[Ids]) -> None:
        """Widen ``margin`` by the difference between prefill and steps on these prompts."""
        plain = self(embeddings, prompts)
        text_ids = self._text(prompts, plain.token_ids.cpu().numpy())
        graph = self._prefill_graphs.get(text_ids.shape[1]) if self.use_graphs else None
        logits, _ = (graph or self._prefill)(embeddings, text_ids, self._lengths - 1)
        self.margin = max(self.margin or 0.0, SAFETY * float((logits - plain.logits).abs().max()))

    def record_graphs(self) -> None:
        """Record a prefill for every bucket, and the step. CUDA only."""
        config, pool, keys = self.model.config, torch.cuda.graph_pool_handle(), self._cache.keys
        batch = keys.shape[1]
        embeddings = keys.new_zeros(batch, config.patches, config.llama.hidden_size)
        last = torch.full((batch,), config.patches, device=self._device)
        with torch.inference_mode():
            for bucket in self.buckets:
                ids = torch.zeros(batch, bucket, dtype=torch.int64, device=self._device)
                self._prefill_graphs[bucket] = GraphedFunction(self._prefill, (embeddings, ids, last), pool)
            ids = torch.zeros(batch, self._riders or 1, dtype=torch.int64, device=self._device)
            self._step_graph = GraphedFunction(self._step, (ids, ids + config.patches), pool)

    def clear(self) -> None:
        """Forget everything, after logits that are not finite."""
        self._cache.clear()

    # ---- one pass. These two are what graphs record: they never wait for the device.

    def _prefill(self, embeddings: Tensor, text_ids: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 1 + riders, vocab) and their best ids of the rows from the prompts' ``last`` (B,) on."""
        x = self.model.sequence(embeddings, text_ids)
        hidden = self.model.language_model(x, PromptRows(self._cache, x.shape[1]))
        rows = last[:, None] + self._ahead[: self._riders + 1]
        logits = self.model.language_model.logits(hidden[self._cache.sequences, rows])
        return logits, logits.argmax(dim=-1)

    def _step(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T, vocab) and their best ids after tokens (B, T) at ``positions`` (B, T)."""
        hidden = self.model.language_model(self.model.language_model.embed(tokens), NextRows(self._cache, positions))
        logits = self.model.language_model.logits(hidden)
        return logits, logits.argmax(dim=-1)

    # ---- many passes

    def _run_step(self, tokens: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """A step on tokens (B, T), the first of them at position ``first`` (B,)."""
        graph = self._step_graph if self.use_graphs else None
        return (graph or self._step)(tokens, first[:, None] + self._ahead[: tokens.shape[1]])

    def _continue(self, tokens: Tensor, logits: Tensor, kept: Tensor, look: bool) -> Decoded:
        """Greedy tokens (B, n) behind the first ``kept`` (B,) of ``tokens``; the rest of them are guesses.

        look: stop when nothing changes, for which the host waits for every step.
        """
        first, stays, steps = logits[:, :1].clone(), self._ahead[1:] < kept[:, None], 0
        rest = logits[:, 1:]
        for steps in range(1, self.count):  # noqa: B007 (the last value is the number of steps)
            rest, best = self._run_step(tokens[:, :-1], self._lengths)
            better = torch.where(stays, tokens[:, 1:], best)
            settled = look and torch.equal(better, tokens[:, 1:])
            tokens = torch.cat([tokens[:, :1], better], dim=1)
            if settled:
                break
        return Decoded(tokens, torch.cat([first, rest], dim=1), 1 + steps)

    def _confirmed(self, logits: Tensor, best: Tensor, draft: Ids) -> bool:
        """Whether the prefill has shown the draft to be right, by a lead that no change of kernels takes back."""
        if self.margin is None:
            return False
        agrees = (best[:, :-1] == torch.from_numpy(draft[:, :-1]).to(self._device)).all()
        values = logits[:, 1:].topk(2, dim=-1).values
        return bool(agrees & (values[..., 0] - values[..., 1] > self.margin).all())

    def _text(self, prompts: Sequence[Ids], draft: Ids | None) -> Tensor:
        """(B, T) ids: each prompt, its draft without the last token, padding."""
        needed = max(map(len, prompts)) + self._riders
        text = np.zeros((len(prompts), next((b for b in self.buckets if b >= needed), needed)), dtype=np.int64)
        for row, ids in enumerate(prompts):
            text[row, : len(ids)] = ids
            if draft is not None:
                text[row, len(ids) : len(ids) + self._riders] = draft[row, :-1]
        return torch.from_numpy(text).to(self._device)


class OneByOneDecoder(Decoder):
    """A pass of one row for every token, and no padding: for precisions in which rows influence each other."""

    def __init__(self, model: OpenVLA, cache: KVCache, count: int) -> None:
        super().__init__(model, cache, count)
        self._riders = 0

    def __call__(
        self,
        embeddings: Tensor,
        prompts: Sequence[Ids],
        draft: Ids | None = None,
        stage: Callable[[str], Any] = lambda _: None,
    ) -> Decoded:
        """As in Decoder, without a draft."""
        return super().__call__(embeddings, prompts, None, stage)

    def _continue(self, tokens: Tensor, logits: Tensor, kept: Tensor, look: bool) -> Decoded:
        done = int(kept)
        chosen, seen = [tokens[:, :done]], [logits[:, :done].clone()]
        for index in range(done, self.count):
            logits, best = self._run_step(chosen[-1][:, -1:], self._lengths + index - 1)
            seen.append(logits.clone())
            chosen.append(best.clone())
        return Decoded(torch.cat(chosen, dim=1), torch.cat(seen, dim=1), 1 + self.count - done)
