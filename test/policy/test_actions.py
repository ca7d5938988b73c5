"""Action tokens, un-normalisation and the meaning of a dataset's numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from openvla_ros.errors import CheckpointError, ConfigError
from openvla_ros.policy.openvla.statistics import ActionStatistics, choose_key, load_norm_stats
from openvla_ros.policy.openvla.tokens import ActionTokenizer
from openvla_ros.policy.semantics import DECLARED, ActionSemantics, semantics_for

TOKENIZER = ActionTokenizer()
UNIT = st.floats(-1, 1)


@given(st.lists(UNIT, min_size=1, max_size=14))
def test_a_round_trip_stays_within_half_a_bin(values: list[float]) -> None:
    np.testing.assert_allclose(TOKENIZER.decode(TOKENIZER.encode(values)), values, atol=1 / 255 + 1e-12)


@given(st.integers(31745, 31999))
def test_an_action_token_survives_decode_and_encode(token: int) -> None:
    """31744 is left out: it shares the last bin centre with 31745."""
    assert TOKENIZER.encode(TOKENIZER.decode(token)) == token


@given(UNIT, UNIT)
def test_larger_values_have_smaller_ids(first: float, second: float) -> None:
    low, high = sorted([first, second])
    assert TOKENIZER.encode(low) >= TOKENIZER.encode(high)


@given(st.integers(0, 32063))
def test_any_id_decodes_to_a_bin_centre_and_strangers_are_counted(token: int) -> None:
    """The official code clips strangers to an end of the range without a word; here they are at least counted."""
    assert np.abs(TOKENIZER.decode(token)) <= 1 - 1 / 255
    assert TOKENIZER.count_outside([token, 31800]) == int(not 31744 <= token <= 31999)


def stats(**action: Any) -> ActionStatistics:
    return ActionStatistics.from_entry("lab", {"action": {"q01": [-1.0, 0.0], "q99": [3.0, 1.0], **action}})


@given(st.lists(UNIT, min_size=2, max_size=2))
def test_unnormalised_values_lie_between_the_percentiles(values: list[float]) -> None:
    raw = stats().unnormalize(np.array(values))
    assert (raw >= [-1 - 1e-12, -1e-12]).all()
    assert (raw <= [3 + 1e-12, 1 + 1e-12]).all()


def test_unmasked_dimensions_pass_unchanged_and_a_missing_mask_means_all() -> None:
    values = np.array([0.5, 0.5])
    assert stats(mask=[True, False]).unnormalize(values).tolist() == [2.0, 0.5]
    assert stats().unnormalize(values).tolist() == [2.0, 0.75]


@pytest.mark.parametrize(
    "action",
    [
        {"q99": [1.0]},
        {"q99": None},
        {"mask": [True]},
        {"mask": [1, 0]},
        {"q01": [float("nan"), 0.0]},
        {"q99": [float("inf"), 1.0]},
        {"q01": [[-1.0], [0.0]]},
        {"q01": ["a", "b"]},
        {"q01": [], "q99": []},
    ],
)
def test_broken_statistics_are_refused(action: dict[str, Any]) -> None:
    """A NaN percentile would make every action NaN; a short list would broadcast."""
    with pytest.raises(CheckpointError, match="'lab'"):
        stats(**action)


@pytest.mark.parametrize("entry", [{}, {"action": {}}, {"action": None}, None])
def test_missing_statistics_are_refused(entry: Any) -> None:
    with pytest.raises(CheckpointError, match="'lab'"):
        ActionStatistics.from_entry("lab", entry)


def test_inverted_percentiles_and_other_dimensions_do_not_drive_an_arm() -> None:
    with pytest.raises(CheckpointError, match="2 dimensions"):
        stats().check_drivable("lab")
    inverted = {"q01": [1.0] * 7, "q99": [-1.0] * 7}
    with pytest.raises(CheckpointError, match="reverse"):
        ActionStatistics.from_entry("lab", {"action": inverted}).check_drivable("lab")


def test_unnorm_key_rules() -> None:
    """The official code asserts; a user of one of 25 datasets has to be told which there are."""
    assert choose_key({"only": {}}, None) == "only"
    assert choose_key({"a": {}, "b": {}}, "b") == "b"
    with pytest.raises(ConfigError, match="a, b"):
        choose_key({"a": {}, "b": {}}, None)
    with pytest.raises(ConfigError, match=r"'c' is not in this checkpoint; it has a, b"):
        choose_key({"a": {}, "b": {}}, "c")


def test_dataset_statistics_json_replaces_norm_stats(tmp_path: Path) -> None:
    """finetune.py leaves the 25 datasets of the base model in config.json; un-normalising with one of them is wrong."""
    config: dict[str, Any] = {"norm_stats": {"bridge_orig": {}}}
    assert list(load_norm_stats(tmp_path, config)) == ["bridge_orig"]
    (tmp_path / "dataset_statistics.json").write_text('{"my_lab": {}}')
    assert list(load_norm_stats(tmp_path, config)) == ["my_lab"]
    (tmp_path / "dataset_statistics.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no action statistics"):
        load_norm_stats(tmp_path, config)


def test_bridge_is_metres_fixed_axis_angles_and_an_absolute_gripper() -> None:
    raw = np.array([0.01, -0.02, 0.03, 0.1, -0.2, 0.3, 0.75])
    np.testing.assert_array_equal(DECLARED["bridge_orig"].to_action(raw).to_array(), raw)


@given(st.lists(st.floats(-0.9, 0.9), min_size=3, max_size=3))
def test_libero_numbers_are_controller_units_and_a_rotation_vector(vector: list[float]) -> None:
    """1 in LIBERO is 5 cm, not 1 m: unconverted it would drive the arm twenty times too far."""
    action = DECLARED["libero_spatial_no_noops"].to_action(np.array([1.0, 0.0, -1.0, *vector, 1.0]))
    np.testing.assert_allclose(action.translation, [0.05, 0.0, -0.05])
    wanted = Rotation.from_rotvec(0.5 * np.array(vector))
    assert (Rotation.from_euler("xyz", action.rotation).inv() * wanted).magnitude() < 1e-9


def test_moving_axes_and_degrees_are_converted() -> None:
    semantics = ActionSemantics(rotation="rpy_moving_axes", rotation_unit_rad=np.pi / 180, control_hz=5)
    action = semantics.to_action(np.array([0, 0, 0, 30.0, 40.0, 50.0, 0]))
    wanted = Rotation.from_euler("XYZ", [30, 40, 50], degrees=True)
    assert (Rotation.from_euler("xyz", action.rotation).inv() * wanted).magnitude() < 1e-9


@given(st.floats(-2, 2))
def test_the_gripper_is_1_open_in_its_range(value: float) -> None:
    inverted = ActionSemantics(rotation="rpy_fixed_axes", gripper_open=-1.0, gripper_closed=1.0, control_hz=5)
    gripper = inverted.to_action(np.array([0, 0, 0, 0, 0, 0, value])).gripper
    assert gripper == pytest.approx(min(max((1 - value) / 2, 0), 1))


def test_released_datasets_that_are_not_known_to_be_plain_deltas_refuse(released: Path) -> None:
    """ucsd_kitchen is in millimetres (q01 of x = 200 in magnitude): as metres it would be sent through the wall."""
    norm_stats = json.loads((released / "config.json").read_text())["norm_stats"]
    assert len(norm_stats) == 25
    for key in norm_stats.keys() - {"bridge_orig", "fractal20220817_data"}:
        with pytest.raises(CheckpointError, match="action_semantics"):
            semantics_for(key, norm_stats[key])
    with pytest.raises(CheckpointError, match="millimetres and degrees"):
        semantics_for("ucsd_kitchen_dataset_converted_externally_to_rlds", {})


def test_a_declaration_beside_the_statistics_wins() -> None:
    declared = {"rotation": "rotation_vector", "translation_unit_m": 0.001, "control_hz": 10}
    assert semantics_for("my_lab", {"action_semantics": declared}).translation_unit_m == 0.001
    assert semantics_for("bridge_orig", {"action_semantics": declared}).control_hz == 10


def test_the_refusal_shows_a_declaration_that_works() -> None:
    with pytest.raises(CheckpointError) as caught:
        semantics_for("my_lab", {})
    example = str(caught.value).split('"action_semantics": ')[1]
    assert semantics_for("my_lab", {"action_semantics": json.loads(example)}) == DECLARED["bridge_orig"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.update(frame="tool"), "frame"),
        (lambda d: d.update(kind="absolute"), "kind"),
        (lambda d: d.pop("rotation"), "rotation"),
        (lambda d: d.pop("control_hz"), "control_hz"),
        (lambda d: d.update(control_hz=0), "control_hz"),
        (lambda d: d.update(translation_unit_m=float("nan")), "translation_unit_m"),
        (lambda d: d.update(gripper_closed=1.0), "gripper_open"),
        (lambda d: d.update(units="mm"), "units"),
    ],
)
def test_a_declaration_that_is_not_understood_is_refused(
    change: Callable[[dict[str, Any]], object], named: str
) -> None:
    declared: dict[str, Any] = {"rotation": "rpy_fixed_axes", "control_hz": 5}
    change(declared)
    with pytest.raises(CheckpointError, match=named):
        semantics_for("my_lab", {"action_semantics": declared})
