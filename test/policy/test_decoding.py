"""Drafts, padding, batches and steps change how long decoding takes, never a token."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.errors import ConfigError, PolicyError
from openvla_ros.policy.openvla import attention, decoding
from openvla_ros.policy.openvla import engine as engine_module
from openvla_ros.policy.openvla.config import LlamaConfig, OpenVLAConfig, TowerConfig
from openvla_ros.policy.openvla.decoding import Decoded, Decoder, Ids
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.loading import build_model, expected_shapes
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.policy import OpenVLAPolicy, choose_dataset
from openvla_ros.policy.openvla.precision import scheme_for
from openvla_ros.policy.openvla.warm_up import check_decoding

CPU = torch.device("cpu")
COUNT, VOCAB, PATCHES = 7, 40, 4
TOWER = TowerConfig(16, 2, 2, 2.0, 0, layer_scale=False, attention_pool=False, image_size=28)
LLAMA = LlamaConfig(VOCAB, 32, 48, 2, 4, 2, max_position_embeddings=128)
CONFIG = OpenVLAConfig((TOWER,), LLAMA, "{instruction}", 8, VOCAB)


class Random:
    """Weights large enough that tokens depend on everything before them."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._shapes = expected_shapes(CONFIG)[0]

    def tensor(self, name: str) -> torch.Tensor:
        return torch.randn(self._shapes[name], generator=self._generator) * 0.5


@cache
def model(seed: int, precision: str) -> OpenVLA:
    return build_model(CONFIG, Random(seed), scheme_for(precision, CPU))


def prompts_of(seed: int, batch: int) -> tuple[torch.Tensor, list[Ids]]:
    rng = np.random.default_rng(seed)
    embeddings = torch.from_numpy(rng.normal(size=(batch, PATCHES, LLAMA.hidden_size)).astype(np.float32))
    return embeddings, [rng.integers(0, VOCAB, rng.integers(1, 20)) for _ in range(batch)]


def decoder(network: OpenVLA, batch: int = 1, buckets: tuple[int, ...] = (), margin: float | None = None) -> Decoder:
    made = Decoder(network, network.new_cache(PATCHES + 64, batch), COUNT, buckets=buckets)
    made.margin = margin
    return made


def one_by_one(network: OpenVLA, embeddings: torch.Tensor, ids: Ids) -> Ids:
    """The definition: the whole sequence anew for every token."""
    tokens: list[int] = []
    with torch.inference_mode():
        for _ in range(COUNT):
            text = torch.from_numpy(np.concatenate([ids, tokens]).astype(np.int64))[None]
            x = network.sequence(embeddings, text)
            hidden = network.language_model(x, decoding.PromptRows(network.new_cache(x.shape[1]), x.shape[1]))
            tokens.append(int(network.language_model.logits(hidden)[0, -1].argmax()))
    return np.array(tokens)


def numpy(decoded: Decoded) -> Ids:
    out: Ids = decoded.token_ids.numpy()
    return out


@given(seed=st.integers(0, 7), which=st.integers(0, 50), data=st.data())
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_any_draft_gives_the_tokens_of_plain_decoding(
    precision: str, seed: int, which: int, data: st.DataObject
) -> None:
    """Right, half right, wrong and random drafts, for one prompt and for several: the same logits, bit by bit."""
    network, batch = model(seed, precision), data.draw(st.sampled_from([1, 3]))
    embeddings, prompts = prompts_of(which, batch)
    embeddings = embeddings.to(scheme_for(precision, CPU).dtype)
    plain = decoder(network, batch)(embeddings, prompts)
    right = data.draw(st.lists(st.integers(0, COUNT), min_size=batch, max_size=batch))
    noise = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=COUNT, max_size=COUNT))
    draft = np.where(np.arange(COUNT) < np.array(right)[:, None], numpy(plain), noise)
    drafted = decoder(network, batch)(embeddings, prompts, draft)
    assert torch.equal(drafted.token_ids, plain.token_ids)
    assert torch.equal(drafted.logits, plain.logits)
    assert plain.passes == COUNT
    assert 2 <= drafted.passes <= COUNT
    confirmed = decoder(network, batch, margin=1e-3 if precision == "float32" else 1.0)(embeddings, prompts, draft)
    assert torch.equal(confirmed.token_ids, plain.token_ids)
    if precision == "float32" and (draft == numpy(plain)).all():
        assert confirmed.passes == 1 or _near_tie(plain)


def _near_tie(decoded: Decoded) -> bool:
    best = decoded.logits[:, 1:].topk(2, dim=-1).values
    return bool((best[..., 0] - best[..., 1] <= 1e-3).any())


@given(seed=st.integers(0, 7), which=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_plain_decoding_is_greedy_decoding(seed: int, which: int) -> None:
    """Against the whole sequence computed anew for every token; padded to a bucket or not; alone and in a batch."""
    network = model(seed, "float32")
    embeddings, prompts = prompts_of(which, 3)
    batch = numpy(decoder(network, 3)(embeddings, prompts))
    padded = numpy(decoder(network, 3, buckets=(32, 64))(embeddings, prompts))
    for row, ids in enumerate(prompts):
        wanted = one_by_one(network, embeddings[row : row + 1], ids)
        np.testing.assert_array_equal(batch[row], wanted)
        np.testing.assert_array_equal(padded[row], wanted)
        np.testing.assert_array_equal(numpy(decoder(network)(embeddings[row : row + 1], [ids]))[0], wanted)


@given(seed=st.integers(0, 7), which=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_the_runner_up_differs_first_where_the_lead_is_smallest(seed: int, which: int) -> None:
    """And is greedy after it: the same as decoding with that token given."""
    network = model(seed, "float32")
    embeddings, prompts = prompts_of(which, 1)
    made = decoder(network)
    decoded = made(embeddings, prompts)
    second = made.runner_up(decoded)[0].numpy()
    values, ranked = decoded.logits[0].topk(2, dim=-1)
    at = int((values[:, 0] - values[:, 1]).argmin())
    np.testing.assert_array_equal(second[:at], numpy(decoded)[0, :at])
    assert second[at] == ranked[at, 1]
    forced = one_by_one(network, embeddings, np.concatenate([prompts[0], second[: at + 1]]))
    np.testing.assert_array_equal(second[at + 1 :], forced[: COUNT - at - 1])
    other = decoding.OneByOneDecoder(network, network.new_cache(PATCHES + 64), COUNT)
    np.testing.assert_array_equal(other.runner_up(other(embeddings, prompts))[0].numpy(), second)


def test_a_near_tie_is_not_settled_by_the_prefill() -> None:
    """Two tokens with equal rows in lm_head: which of them wins is rounding, and differs between kernels on a GPU."""
    network = build_model(CONFIG, Random(3), scheme_for("float32", CPU))
    embeddings, prompts = prompts_of(5, 1)
    plain = decoder(network)(embeddings, prompts)
    twin = (int(plain.token_ids[0, 3]) + 1) % VOCAB
    network.language_model.lm_head.weight[twin] = network.language_model.lm_head.weight[plain.token_ids[0, 3]]
    made = decoder(network)
    made.calibrate(embeddings, prompts)
    assert made.margin is not None
    plain = made(embeddings, prompts)
    drafted = made(embeddings, prompts, numpy(plain))
    assert torch.equal(drafted.token_ids, plain.token_ids)
    assert drafted.passes == 2


def test_calibration_lets_the_prefill_confirm_a_right_draft() -> None:
    embeddings, prompts = prompts_of(5, 1)
    made = decoder(model(0, "float32"))
    plain = numpy(made(embeddings, prompts))
    assert made(embeddings, prompts, plain).passes == 2
    made.calibrate(embeddings, prompts)
    assert made.margin is not None
    assert made.margin < 1e-3
    assert made(embeddings, prompts, plain).passes == 1


@pytest.mark.parametrize("kind", ["right", "first half right", "second half right", "wrong"])
def test_golden_cases_are_the_same_with_any_draft(engine: Engine, golden: Path, kind: str) -> None:
    """All cases of the official code, one after the other in one decoder."""
    cases = np.load(golden / "openvla-tiny-cases" / "cases.npz")
    wanted = cases["generated_ids"]
    check_decoding(engine, COUNT)
    for index, ids in enumerate(wanted):
        keep = {"right": [True] * 7, "wrong": [False] * 7}.get(kind, np.arange(7) < 3)
        keep = ~np.asarray(keep) if kind.startswith("second") else np.asarray(keep)
        draft = np.where(keep, ids, 31744 + (ids + 17) % 256)[None]
        prompt = cases[f"lm_input_ids_{index:02}"]
        embeddings = engine.image_embeddings(engine.pixel_values([cases[f"image_{index:02}"]]))
        decoded = engine.decode(embeddings, [prompt], COUNT, draft)
        np.testing.assert_array_equal(numpy(decoded)[0], ids)
        assert decoded.passes == 1 if kind == "right" else decoded.passes > 1


def images(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(7).integers(0, 256, (count, 60, 80, 3), dtype=np.uint8))


@pytest.fixture
def policy(engine: Engine) -> OpenVLAPolicy:
    return OpenVLAPolicy(engine, "openvla-tiny", choose_dataset(engine.folder, "bridge_orig"), details=True)


INSTRUCTIONS = ["lift", "put the spoon on the towel beside the red bowl, slowly", "open the drawer", "é" * 200]


def test_a_batch_is_its_single_predictions(policy: OpenVLAPolicy, tiny: Path) -> None:
    """Several robots on one GPU: prompts of all lengths, one of them beyond the usual cache, with drafts of before."""
    alone = OpenVLAPolicy(Engine(tiny), "tiny", choose_dataset(tiny, "bridge_orig"), details=True)
    wanted = [alone.predict(image, text) for image, text in zip(images(4), INSTRUCTIONS, strict=True)]
    for _ in range(2):
        got = policy.predict_batch(images(4), INSTRUCTIONS)
        for mine, theirs in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(mine.token_ids, theirs.token_ids)
            np.testing.assert_array_equal(mine.action.to_array(), theirs.action.to_array())
            assert mine.details is not None
            assert theirs.details is not None
            np.testing.assert_allclose(mine.details.probabilities, theirs.details.probabilities, rtol=1e-3)
            np.testing.assert_allclose(mine.details.entropies, theirs.details.entropies, rtol=1e-3)
            np.testing.assert_array_equal(
                mine.details.second_action.to_array(), theirs.details.second_action.to_array()
            )
    assert [mine.draft_accepted for mine in got] == [COUNT] * 4


def test_a_batch_in_int8_is_its_single_predictions(tiny: Path) -> None:
    """Where rows influence each other, the batch goes one by one."""
    pytest.importorskip("bitsandbytes")
    policy = OpenVLAPolicy(Engine(tiny, precision="int8"), "tiny", choose_dataset(tiny, "bridge_orig"))
    wanted = [policy.predict(image, text) for image, text in zip(images(2), INSTRUCTIONS, strict=False)]
    got = policy.predict_batch(images(2), INSTRUCTIONS[:2])
    assert [g.token_ids.tolist() for g in got] == [w.token_ids.tolist() for w in wanted]


def test_a_batch_of_unequal_lists_is_refused(policy: OpenVLAPolicy) -> None:
    for count in (0, 1):
        with pytest.raises(PolicyError, match=f"{count} images and"):
            policy.predict_batch(images(count), INSTRUCTIONS[: 2 * count])


def test_the_previous_action_is_the_draft(policy: OpenVLAPolicy) -> None:
    policy.warm_up()
    image = images(1)[0]
    first, second = (policy.predict(image, "lift the can") for _ in range(2))
    assert (second.draft_accepted, second.passes) == (COUNT, 1)
    assert first.token_ids.tolist() == second.token_ids.tolist()


def test_details_are_the_distributions_of_the_tokens(policy: OpenVLAPolicy) -> None:
    """On a model whose logits are all equal: every token has 1 of 32064, and the entropy is that of dice."""
    policy.engine.model.language_model.lm_head.weight.zero_()
    details = policy.predict(images(1)[0], "lift the can").details
    assert details is not None
    np.testing.assert_allclose(details.probabilities, 1 / 32064)
    np.testing.assert_allclose(details.entropies, np.log(32064))
    assert OpenVLAPolicy(policy.engine, "", choose_dataset(policy.engine.folder, "bridge_orig")).details is False


def test_a_nan_leaves_nothing_behind(policy: OpenVLAPolicy) -> None:
    """Hazard: a masked position adds 0 times its value, and 0 times NaN is NaN: one bad prediction would end all."""
    image, bias = images(1)[0], policy.engine.model.projector.fc2.bias
    before, kept = policy.predict(image, INSTRUCTIONS[0]), float(bias[0])
    bias[0] = float("nan")
    with pytest.raises(PolicyError, match="not finite"):
        policy.predict(image, INSTRUCTIONS[1])
    bias[0] = kept
    after = policy.predict(image, INSTRUCTIONS[0])
    assert after.token_ids.tolist() == before.token_ids.tolist()


def test_a_difference_between_the_ways_of_decoding_does_not_start(
    policy: OpenVLAPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prefill that confirms whatever it is offered: what a GPU does with other kernels, made large."""
    monkeypatch.setattr(Decoder, "_confirmed", lambda self, logits, best, draft: True)
    with pytest.raises(PolicyError, match=r"fast decoding gives tokens .* Set decoding to plain"):
        policy.warm_up()


class Replay:
    """What a CUDA graph does, on a CPU: fixed inputs and outputs, in which the next replay leaves other data.

    Capturing itself is CUDA's and can't be shown here.
    """

    log: ClassVar[list[tuple[int, ...]]] = []

    def __init__(self, function: Any, examples: tuple[torch.Tensor, ...], pool: object) -> None:
        self._function, self._inputs = function, tuple(example.clone() for example in examples)
        self._outputs = function(*self._inputs)

    def __call__(self, *inputs: torch.Tensor) -> Any:
        for mine, new in zip(self._inputs, inputs, strict=True):
            assert mine.shape == new.shape
            assert mine.dtype == new.dtype
            mine.copy_(new)
        self.log.append(tuple(self._inputs[-2 if len(self._inputs) == 3 else 0].shape))
        made = self._function(*self._inputs)
        if isinstance(made, torch.Tensor):
            self._outputs.copy_(made)
        else:
            for mine, new in zip(self._outputs, made, strict=True):
                mine.copy_(new)
        return self._outputs


@pytest.mark.parametrize("batch", [1, 2])
def test_recorded_passes_serve_prompts_of_every_length(
    engine: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Recorded once at warm-up; a longer prompt takes another bucket, and one beyond all of them goes without."""
    recorded: list[Any] = []

    class Recorded(Replay):
        def __init__(self, *arguments: Any) -> None:
            recorded.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(decoding, "GraphedFunction", Recorded)
    monkeypatch.setattr(engine_module, "GraphedFunction", Recorded)
    engine.graphs = True
    policy = OpenVLAPolicy(engine, "tiny", choose_dataset(tiny, "bridge_orig"), details=True)
    plain = OpenVLAPolicy(Engine(tiny, decoding="plain"), "tiny", choose_dataset(tiny, "bridge_orig"), details=True)
    policy.warm_up(batch)
    at_warm_up = len(recorded)
    assert at_warm_up == 1 + len(decoding.BUCKETS) + 1
    Replay.log.clear()
    for text in [*INSTRUCTIONS, *INSTRUCTIONS]:
        got = policy.predict_batch(images(batch), [text] * batch)
        wanted = plain.predict_batch(images(batch), [text] * batch)
        for mine, theirs in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(mine.token_ids, theirs.token_ids)
            assert mine.details is not None
            assert theirs.details is not None
            np.testing.assert_allclose(mine.details.probabilities, theirs.details.probabilities, rtol=1e-3)
            np.testing.assert_array_equal(
                mine.details.second_action.to_array(), theirs.details.second_action.to_array()
            )
    assert len(recorded) == at_warm_up
    assert {shape for shape in Replay.log if len(shape) == 2} == {(batch, 32), (batch, 64), (batch, COUNT - 1)}


def test_flash_attention_is_given_what_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """flash-attn runs on a GPU only. Its documented meaning, by SDPA: causal, aligned to the sequences' ends."""

    def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        out = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask, enable_gqa=True
        )
        return out.transpose(1, 2)

    class Stub:
        @staticmethod
        def flash_attn_func(q: Any, k: Any, v: Any, causal: bool) -> torch.Tensor:
            assert causal
            return masked(q, k, v, torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril())

        @staticmethod
        def flash_attn_with_kvcache(q: Any, keys: Any, values: Any, cache_seqlens: Any, causal: bool) -> torch.Tensor:
            assert causal
            assert cache_seqlens.dtype == torch.int32
            ends = cache_seqlens[:, None] - q.shape[1] + torch.arange(q.shape[1])
            return masked(q, keys, values, (torch.arange(keys.shape[1]) <= ends[..., None])[:, None])

    embeddings, prompts = prompts_of(9, 3)
    wanted = decoder(model(1, "float32"), 3)(embeddings, prompts)
    monkeypatch.setattr(attention, "_flash", lambda device, dtype: True)
    monkeypatch.setattr(attention, "import_module", lambda name: Stub)
    got = decoder(model(1, "float32"), 3)(embeddings, prompts)
    torch.testing.assert_close(got.logits, wanted.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoding": "magic"}, "decoding 'magic' is not one of auto, plain, draft"),
        ({"decoding": "draft", "precision": "int8"}, "'draft' can't be exact in precision 'int8'"),
    ],
)
def test_a_decoding_that_is_not_to_be_had_is_refused(tiny: Path, options: dict[str, str], message: str) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ConfigError, match=message):
        Engine(tiny, **options)


def test_plain_decoding_takes_no_draft(tiny: Path) -> None:
    policy = OpenVLAPolicy(Engine(tiny, decoding="plain"), "tiny", choose_dataset(tiny, "bridge_orig"))
    predictions = [policy.predict(images(1)[0], "lift the can") for _ in range(2)]
    assert [(p.passes, p.draft_accepted) for p in predictions] == [(COUNT, None)] * 2
