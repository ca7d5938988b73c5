"""The policy as the ROS node uses it: loading by name, predictions, and every reason not to predict."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openvla_ros.errors import CheckpointError, ConfigError, PolicyError
from openvla_ros.policy.base import Policy
from openvla_ros.policy.checkpoint import resolve_checkpoint
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.policy import OpenVLAPolicy, choose_dataset
from openvla_ros.policy.openvla.verification import verify_cases
from openvla_ros.policy.openvla.warm_up import check_sees
from openvla_ros.policy.registry import load_policy

INSTRUCTION = "put the spoon on the towel"


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (480, 640, 3), dtype=np.uint8)


@pytest.fixture
def policy(engine: Engine) -> OpenVLAPolicy:
    return OpenVLAPolicy(engine, "openvla-tiny", choose_dataset(engine.folder, "bridge_orig"))


def test_predicts_the_golden_actions(tiny: Path, golden: Path) -> None:
    policy: Policy = load_policy(str(tiny), unnorm_key="bridge_orig", precision="float32", threads=1)
    policy.warm_up()
    cases = np.load(golden / "openvla-tiny-cases" / "cases.npz")
    prediction = policy.predict(cases["image_00"], INSTRUCTION)
    np.testing.assert_array_equal(prediction.token_ids, cases["generated_ids"][0])
    np.testing.assert_array_equal(prediction.normalized, cases["normalized_action"][0])
    raw = cases["action__bridge_orig"][0]
    np.testing.assert_allclose(prediction.action.to_array()[:6], raw[:6], atol=1e-12)
    assert prediction.action.gripper == pytest.approx(np.clip(raw[6], 0, 1))
    assert prediction.outside_action_tokens == int(
        ((prediction.token_ids < 31744) | (prediction.token_ids > 31999)).sum()
    )
    stages = ("preprocess", "vision", "prefill", "decode")
    assert all(prediction.timings[stage] > 0 for stage in stages)
    assert sum(prediction.timings[stage] for stage in stages) <= prediction.timings["total"]


def test_describe_names_what_runs(policy: OpenVLAPolicy) -> None:
    description = policy.describe()
    assert description["checkpoint"] == "openvla-tiny"
    assert description["unnorm_key"] == "bridge_orig"
    assert (description["precision"], description["device"]) == ("float32", "cpu")
    assert len(description["weights_fingerprint"]) == 64
    assert description["versions"]["torch"] == torch.__version__


def test_the_fingerprint_sees_one_changed_byte(tiny_copy: Path) -> None:
    def fingerprint() -> str:
        return str(load_policy(str(tiny_copy), unnorm_key="bridge_orig").describe()["weights_fingerprint"])

    before = fingerprint()
    weights = bytearray((tiny_copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tiny_copy / "model.safetensors").write_bytes(bytes(weights))
    assert fingerprint() != before


def test_a_v01_checkpoint_is_recognised_under_any_name(v01: Path, golden: Path, tmp_path: Path) -> None:
    """The official code looks for 'v01' in the path; a renamed folder gets another prompt and another action."""
    folder = Path(shutil.copytree(v01, tmp_path / "my-favourite"))
    assert verify_cases(Engine(folder), golden / "openvla-v01-tiny-cases").passed


def test_one_prediction_leaves_nothing_for_the_next(policy: OpenVLAPolicy, image: np.ndarray) -> None:
    """The key-value cache is reused: a longer prompt or another image before must not shine through."""
    first = policy.predict(image, INSTRUCTION)
    policy.predict(255 - image, INSTRUCTION + " and then, very slowly, go back to where you came from" * 5)
    again = policy.predict(image, INSTRUCTION)
    np.testing.assert_array_equal(again.token_ids, first.token_ids)
    fresh = load_policy(str(policy.engine.folder), unnorm_key="bridge_orig").predict(image, INSTRUCTION)
    np.testing.assert_array_equal(fresh.token_ids, first.token_ids)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda image: image.astype(np.float32) / 255, "dtype float32"),
        (lambda image: image.astype(np.int64), "dtype int64"),
        (lambda image: image[..., 0], "shape"),
        (lambda image: np.dstack([image, image[..., :1]]), "shape"),
        (lambda image: image[None], "shape"),
        (lambda image: image.transpose(2, 0, 1), "shape"),
        (lambda image: image[:0], "empty"),
        (lambda image: image[:, :0], "empty"),
        (lambda image: image.tolist(), "list"),
        (lambda image: None, "NoneType"),
    ],
)
def test_an_image_that_is_not_uint8_rgb_is_refused(
    policy: OpenVLAPolicy, image: np.ndarray, broken: Callable[[np.ndarray], Any], message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        policy.predict(broken(image), INSTRUCTION)


@pytest.mark.parametrize("instruction", ["", "  \n", None, 3])
def test_an_empty_instruction_is_refused(policy: OpenVLAPolicy, image: np.ndarray, instruction: Any) -> None:
    """Without an instruction the model still gives an action; nobody asked for it."""
    with pytest.raises(PolicyError, match="instruction"):
        policy.predict(image, instruction)


def test_an_instruction_beyond_the_context_is_refused(policy: OpenVLAPolicy, image: np.ndarray) -> None:
    with pytest.raises(PolicyError, match="too long"):
        policy.predict(image, "block " * 3000)


def test_the_longest_instruction_that_fits_is_predicted(policy: OpenVLAPolicy, image: np.ndarray) -> None:
    room = 2048 - 256 - 7
    instruction, step = "", "é"
    count = len(policy.engine.processor.text.input_ids(instruction))
    per_step = len(policy.engine.processor.text.input_ids(step)) - count
    instruction = step * ((room - count) // per_step)
    assert policy.predict(image, instruction).token_ids.size == 7


def _make_everything_end(policy: OpenVLAPolicy, image: np.ndarray) -> None:
    """Weights whose first token is end-of-sequence: row 2 of lm_head along the hidden state that it meets."""
    head, seen = policy.engine.model.language_model.lm_head, []
    with head.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone())):
        policy.engine.first_logits(image, INSTRUCTION)
    head.weight.zero_()
    head.weight[2] = seen[0]


def test_an_early_end_of_sequence_is_no_action(policy: OpenVLAPolicy, image: np.ndarray) -> None:
    """The official code then takes prompt tokens for action tokens and returns a shifted, meaningless action."""
    with torch.inference_mode():
        _make_everything_end(policy, image)
    with pytest.raises(PolicyError, match="after 0 of 7 action tokens"):
        policy.predict(image, INSTRUCTION)


def test_logits_that_are_not_finite_are_no_action(policy: OpenVLAPolicy, image: np.ndarray) -> None:
    """argmax of NaN is an index like any other, which decodes to an action like any other."""
    policy.engine.model.projector.fc2.bias[0] = float("nan")
    with pytest.raises(PolicyError, match="not finite"):
        policy.predict(image, INSTRUCTION)
    with pytest.raises(PolicyError, match="not finite"):
        policy.warm_up()


def test_a_model_that_ignores_its_image_does_not_start(policy: OpenVLAPolicy, golden: Path) -> None:
    """Newer transformers silently drops the image of the official code: one action for a noise and a black image."""
    policy.warm_up()
    projector = policy.engine.model.projector
    assert projector.fc3 is not None
    projector.fc3.weight.zero_()
    with pytest.raises(PolicyError, match="ignores the image"):
        policy.warm_up()
    with pytest.raises(PolicyError, match="ignores the image"):
        verify_cases(policy.engine, golden / "openvla-tiny-cases")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_sound_model_sees_its_image(tiny: Path, v01: Path, precision: str) -> None:
    for folder in (tiny, v01):
        assert check_sees(Engine(folder, precision=precision)) > 5


def test_the_language_model_hears_the_instruction(policy: OpenVLAPolicy, image: np.ndarray) -> None:
    first, second = (policy.engine.first_logits(image, text) for text in ("lift the can", "open the drawer"))
    assert (first - second).abs().max() > 0.1


def test_tokens_that_are_no_actions_are_counted(policy: OpenVLAPolicy, image: np.ndarray) -> None:
    """All logits equal: argmax is id 0, which decodes by clipping to +0.996 in every dimension."""
    policy.engine.model.language_model.lm_head.weight.zero_()
    prediction = policy.predict(image, INSTRUCTION)
    assert prediction.outside_action_tokens == 7
    assert prediction.normalized == pytest.approx([0.996078] * 7, abs=1e-6)


def test_a_dataset_without_declared_meaning_does_not_drive(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="not declared what the actions of 'tiny_lab' mean"):
        load_policy(str(tiny), unnorm_key="tiny_lab")


def test_statistics_that_would_reverse_the_motion_do_not_drive(tiny_copy: Path, edit_json: Callable[..., None]) -> None:
    def swap(config: dict[str, Any]) -> None:
        action = config["norm_stats"]["bridge_orig"]["action"]
        action["q01"], action["q99"] = action["q99"], action["q01"]

    edit_json(tiny_copy / "config.json", swap)
    with pytest.raises(CheckpointError, match="reverse"):
        load_policy(str(tiny_copy), unnorm_key="bridge_orig")


def test_a_declared_dataset_drives(tiny_copy: Path, edit_json: Callable[..., None], image: np.ndarray) -> None:
    declared = {"rotation": "rpy_fixed_axes", "translation_unit_m": 0.001, "control_hz": 5}
    edit_json(tiny_copy / "config.json", lambda c: c["norm_stats"]["tiny_lab"].update(action_semantics=declared))
    policy = load_policy(str(tiny_copy), unnorm_key="tiny_lab")
    assert np.abs(policy.predict(image, INSTRUCTION).action.translation).max() < 1e-3
    assert policy.semantics.control_hz == 5


@pytest.mark.parametrize("unnorm_key", [None, "bridge", ""])
def test_a_missing_or_unknown_unnorm_key_lists_the_keys(tiny: Path, unnorm_key: str | None) -> None:
    with pytest.raises(ConfigError, match="bridge_orig, tiny_lab"):
        load_policy(str(tiny), unnorm_key=unnorm_key)


def test_a_wrong_unnorm_key_is_said_before_the_weights_are_read(tiny_copy: Path) -> None:
    """15 GB take minutes to load."""
    (tiny_copy / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="unnorm_key 'bridge'"):
        load_policy(str(tiny_copy), unnorm_key="bridge")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision 'fp8'"),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"threads": -1}, "threads"),
    ],
)
def test_unknown_options_are_refused(tiny: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_policy(str(tiny), unnorm_key="bridge_orig", **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_gpu_is_said(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="no CUDA"):
        load_policy(str(tiny), unnorm_key="bridge_orig", device="cuda")


def test_an_unknown_model_type_is_refused(tiny_copy: Path, edit_json: Callable[..., None]) -> None:
    edit_json(tiny_copy / "config.json", lambda config: config.update(model_type="pi0"))
    with pytest.raises(CheckpointError, match=r"'pi0'; known are openvla"):
        load_policy(str(tiny_copy))


def test_an_adapter_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="LoRA adapter"):
        load_policy(str(tmp_path))


def test_a_damaged_config_is_refused(tiny_copy: Path) -> None:
    (tiny_copy / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="can't be read as JSON"):
        load_policy(str(tiny_copy))


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache on a machine without network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_cached_hub_checkpoint_is_found_without_network(offline_hub: Path, tiny: Path) -> None:
    commit = "0" * 40
    repo = offline_hub / "models--lab--openvla-tiny"
    shutil.copytree(tiny, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for name in ("lab/openvla-tiny", f"lab/openvla-tiny@{commit}"):
        assert (resolve_checkpoint(name) / "config.json").is_file()


@pytest.mark.parametrize("name", ["lab/nowhere", "lab/nowhere@v1"])
def test_a_hub_checkpoint_that_is_not_to_be_had_is_one_error(offline_hub: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="neither a local folder nor"):
        resolve_checkpoint(name)


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "nonsense", ""])
def test_a_wrong_path_is_not_taken_for_a_hub_id(name: str) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        resolve_checkpoint(name)
