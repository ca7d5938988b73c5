"""The training pass is the inference pass: the same logits, for prompts of any length, padded or not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.statistics import ActionStatistics
from openvla_ros.training.forward import ActionLogits
from openvla_ros.training.objective import Objective, Scorer


@pytest.mark.parametrize("which", ["openvla-tiny", "openvla-v01-tiny"])
def test_the_logits_are_those_of_inference_on_the_golden_cases(tiny: Path, golden: Path, which: str) -> None:
    """All cases in one batch. A mask, a position or a cache that differs would train another model than the one that
    runs."""
    folder = tiny if which == "openvla-tiny" else golden / which
    engine, cases = Engine(folder, precision="float32"), golden / f"{which}-cases"
    module = ActionLogits(engine.model, engine.processor.image)
    about = json.loads((cases / "cases.json").read_text())["cases"]
    with np.load(cases / "cases.npz") as arrays:
        tokens = arrays["generated_ids"]
        raw = [arrays[f"image_{case['index']:02}"] for case in about]
    prompts = [engine.input_ids(case["instruction"]) for case in about]
    count = tokens.shape[1]
    ids = np.zeros((len(about), max(map(len, prompts)) + count - 1), dtype=np.int64)
    for row, prompt, answer in zip(ids, prompts, tokens, strict=True):
        row[: len(prompt) + count - 1] = [*prompt, *answer[:-1]]
    images = torch.from_numpy(np.stack([engine.processor.image.resized(image) for image in raw]))
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    got = module(images, torch.from_numpy(ids), lengths, count)
    assert torch.equal(got.argmax(dim=-1), torch.from_numpy(tokens))
    assert torch.equal(module.pixel_values(images), engine.pixel_values(raw))
    for i, image in enumerate(raw):
        embeddings = engine.image_embeddings(engine.pixel_values([image]))
        wanted = engine.decode(embeddings, [prompts[i]], count).logits[0]
        assert torch.allclose(got[i], wanted, atol=2e-4), i


def test_gradients_reach_every_weight_and_padding_none(small: Path) -> None:
    model = Engine(small, precision="float32").model.requires_grad_(True)
    module = ActionLogits(model, Engine(small, precision="float32").processor.image)
    images = torch.randint(0, 256, (2, 56, 56, 3), dtype=torch.uint8)
    ids = torch.arange(3, 33).view(2, 15)
    logits = module(images, ids, torch.tensor([5, 8]), 8)
    logits.square().sum().backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    changed = ids.clone()
    changed[0, 12:] = 1  # behind prompt and targets
    assert torch.equal(module(images, changed, torch.tensor([5, 8]), 8)[0], logits[0])


def test_smoothing_prefers_near_misses(small: Path) -> None:
    """Without it, a token beside the right one costs as much as the opposite end."""
    tokenizer = Engine(small).action_tokenizer
    first, vocabulary = tokenizer.vocab_size - 256, tokenizer.vocab_size + 64
    targets = torch.tensor([[first + 100] * 7 + [2]])

    def loss(smoothing: float, guess: int) -> float:
        logits = torch.zeros(1, 8, vocabulary)
        logits[:, :7, guess] = 5.0
        return float(Objective(tokenizer, smoothing, torch.device("cpu"))(logits, targets))

    assert loss(0.0, first + 101) == pytest.approx(loss(0.0, first + 255))
    assert loss(2.0, first + 100) < loss(2.0, first + 101) < loss(2.0, first + 105) < loss(2.0, first + 255)
    certain = torch.zeros(1, 8, vocabulary)
    uniform = float(torch.log(torch.tensor(float(vocabulary))))
    for smoothing in (0.0, 2.0):
        assert float(Objective(tokenizer, smoothing, torch.device("cpu"))(certain, targets)) == pytest.approx(uniform)


def test_scores_are_in_units_of_the_action(small: Path) -> None:
    tokenizer = Engine(small).action_tokenizer
    statistics = ActionStatistics(np.full(7, -0.02), np.full(7, 0.02), np.array([True] * 6 + [False]))
    labels = np.array([[0.01, -0.01, 0.0, 0.005, 0.0, 0.0, 1.0]])
    targets = np.column_stack([tokenizer.encode(np.column_stack([labels[:, :6] / 0.02, labels[:, 6:]])), [[2]]])
    logits = torch.full((1, 8, tokenizer.vocab_size + 64), -1.0)
    logits.scatter_(2, torch.from_numpy(targets)[..., None], 1.0)
    logits[0, 0] = 0.0
    logits[0, 0, tokenizer.vocab_size - 256] = 3.0  # +1, where 0.5 is right: off by 0.01
    scorer = Scorer(tokenizer, statistics, torch.device("cpu"))
    scores = scorer(torch.tensor(2.0), logits, torch.from_numpy(targets), torch.from_numpy(labels).float())
    loss, accuracy, l1 = (scores + scores).means()
    assert loss == 2.0
    assert accuracy.tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert l1[0] == pytest.approx(0.02 * (254 / 255 - 0.5), abs=1e-6)
    assert np.all(l1[1:] <= [0.02 / 255] * 5 + [1 / 255])
