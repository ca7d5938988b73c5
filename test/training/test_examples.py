"""Examples: normalised and tokenised so that the policy's own decoding gives the label back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_ros.errors import CheckpointError, ConfigError, TrainingError
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.statistics import ActionStatistics
from openvla_ros.training.examples import Examples, choose_statistics, hold_out, make_examples, normalize
from openvla_ros.training.frames import Frames
from openvla_ros.training.loop import order

Entry = dict[str, Any]


@pytest.fixture
def chosen(frames: Frames, demos: Path) -> tuple[str, Entry]:
    return choose_statistics("data", None, frames, [demos], {})


@pytest.fixture(scope="module")
def engine(small: Path) -> Engine:
    return Engine(small, precision="float32")


@pytest.fixture
def examples(frames: Frames, engine: Engine, chosen: tuple[str, Entry]) -> Examples:
    return make_examples(frames, engine.processor.text, engine.action_tokenizer, chosen[1], 2)


def test_what_is_learned_is_what_the_policy_will_do(
    frames: Frames, examples: Examples, engine: Engine, chosen: tuple[str, Entry]
) -> None:
    """Within half a bin, and but for the hundredth of each dimension at its ends, which q01 and q99 cut off."""
    statistics = ActionStatistics.from_entry(*chosen)
    decoded = statistics.unnormalize(engine.action_tokenizer.decode(examples.targets[:, :7]))
    inside = np.clip(frames.actions, statistics.q01, statistics.q99)
    half_bin = np.where(statistics.mask, (statistics.q99 - statistics.q01) / 255 / 2, 1 / 255)
    assert np.all(np.abs(decoded - inside) <= half_bin + 1e-6)
    assert np.array_equal(examples.targets[:, 7], np.full(len(frames), 2))


def test_the_statistics_are_those_that_the_recorder_wrote(chosen: tuple[str, Entry], demos: Path) -> None:
    import json

    assert {chosen[0]: chosen[1]} == json.loads((demos / "dataset_statistics.json").read_text())


ENTRY: Entry = {
    "action": {
        "q01": [-1.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0],
        "q99": [1.0, 0.2, 5.0, 0.0, 1.0, 1.0, 1.0],
        "min": [-2.0, 0.0, 5.0, -1.0, 0.0, 0.0, 1.0],
        "max": [2.0, 0.2, 5.0, 1.0, 1.0, 1.0, 1.0],
        "mask": [True] * 6 + [False],
    }
}


def test_normalised_as_openvla_does() -> None:
    raw = np.array([[0.5, 0.05, 5.0, 0.5, 2.0, 0.0, 1.0], [-3.0, 0.2, 5.0, -0.5, 0.5, 1.0, 0.25]])
    wanted = [[0.5, -0.5, 0, 1, 1, -1, 1.0], [-1, 1, 0, -1, 0, 1, 0.25]]
    assert np.allclose(normalize(raw, ENTRY), wanted, atol=1e-6)


def test_a_gripper_that_is_always_open_stays_open() -> None:
    """OpenVLA's rule for constant dimensions would make it 0, which a policy reads as closed."""
    assert normalize(np.array([[0.0] * 6 + [1.0]]), ENTRY)[0, 6] == 1.0


def test_an_action_that_is_not_finite_is_refused(frames: Frames, engine: Engine, chosen: tuple[str, Entry]) -> None:
    """The tokenizer turns a NaN into +1: full speed."""
    actions = frames.actions.copy()
    actions[len(actions) // 2, 2] = np.nan
    with pytest.raises(TrainingError, match="episode small/demo-000001 is not finite"):
        make_examples(replace(frames, actions=actions), engine.processor.text, engine.action_tokenizer, chosen[1], 2)


def test_a_batch_holds_prompt_and_targets_in_their_places(examples: Examples, frames: Frames) -> None:
    rows = np.array([5, 0, len(examples) - 1, 5])
    batch = examples.batch(rows, rows)
    assert np.array_equal(batch.images, frames.images[rows])
    assert np.array_equal(batch.actions, frames.actions[rows])
    for i, row in enumerate(rows):
        prompt = examples.prompts[examples.prompt[row]]
        assert batch.lengths[i] == len(prompt)
        wanted = np.concatenate([prompt, examples.targets[row, :7]])
        assert np.array_equal(batch.ids[i, : len(wanted)], wanted)
        assert not batch.ids[i, len(wanted) :].any()


def test_whole_episodes_are_held_out_and_stay_out(frames: Frames) -> None:
    """A frame of a training episode is no test; one that changes sides has been seen."""
    mine, held = hold_out(frames, 0.3, 0)
    assert len(mine) + len(held) == len(frames)
    assert not set(frames.episode[mine]) & set(frames.episode[held])
    many = replace(frames, episodes=[f"e{i}" for i in range(200)], episode=np.arange(200))
    more = replace(frames, episodes=["new", *many.episodes], episode=np.arange(201))
    out, out_of_more = ({f.episodes[i] for i in f.episode[hold_out(f, 0.3, 0)[1]]} for f in (many, more))
    assert 40 < len(out) < 80
    assert out_of_more - {"new"} == out
    assert len(hold_out(frames, 0.0, 0)[1]) == 0
    with pytest.raises(TrainingError, match="held_out_share"):
        hold_out(replace(frames, episodes=frames.episodes[:1], episode=np.zeros(5, dtype=np.int64)), 0.1, 0)


@given(seed=st.integers(0, 5), count=st.integers(1, 50), start=st.integers(0, 1000), size=st.integers(1, 60))
def test_every_example_is_drawn_once_in_each_epoch_wherever_one_begins(
    seed: int, count: int, start: int, size: int
) -> None:
    """The order follows from the number of the draw alone: after a kill nothing is seen twice or never."""
    whole = order(seed, count, np.arange(0, start + size + count))
    assert np.array_equal(order(seed, count, np.arange(start, start + size)), whole[start : start + size])
    for epoch in range(len(whole) // count):
        assert sorted(whole[epoch * count : (epoch + 1) * count]) == list(range(count))


class TestStatistics:
    def test_of_the_checkpoint_or_a_file(self, frames: Frames, demos: Path, chosen: tuple[str, Entry]) -> None:
        key, entry = chosen
        other = {key: entry, "other": entry | {"num_trajectories": 9}}
        assert choose_statistics("checkpoint", "other", frames, [demos], other) == ("other", other["other"])
        assert choose_statistics(str(demos / "dataset_statistics.json"), None, frames, [demos], {}) == chosen

    @pytest.mark.parametrize("source", ["checkpoint", "data"])
    def test_a_key_that_is_unknown_or_missing(self, frames: Frames, demos: Path, tmp_path: Path, source: str) -> None:
        if source == "data":
            with pytest.raises(ConfigError, match="unnorm_key is not set"):
                choose_statistics("data", None, frames, [tmp_path], {})
        else:
            with pytest.raises(ConfigError, match="'mine' is not in this checkpoint; it has a, b"):
                choose_statistics(source, "mine", frames, [demos], {"a": {}, "b": {}})

    def test_other_units_are_refused(self, frames: Frames, demos: Path, chosen: tuple[str, Entry]) -> None:
        """Metres normalised by the statistics of millimetres: a thousandth of every motion, and nobody would know."""
        entry = chosen[1]
        for change, error, match in (
            ({"translation_unit_m": 0.001}, CheckpointError, "other units"),
            ({"rotation": "rotation_vector"}, CheckpointError, "other units"),
            ({"gripper_open": 0.0, "gripper_closed": 1.0}, CheckpointError, "gripper"),
            ({"control_hz": 10.0}, ConfigError, "10 Hz"),
        ):
            other = {"x": entry | {"action_semantics": entry["action_semantics"] | change}}
            with pytest.raises(error, match=match):
                choose_statistics("checkpoint", "x", frames, [demos], other)
