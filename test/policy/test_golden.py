"""Parity with the official code, through the `verify` verb that users run; and that it can say no."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from openvla_ros.cli.main import main
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.verification import verify_cases


@pytest.mark.parametrize(
    ("checkpoint", "cases"),
    [
        ("../../../resource/openvla-tiny", "openvla-tiny-cases"),
        ("openvla-v01-tiny", "openvla-v01-tiny-cases"),
        ("../../../resource/openvla-tiny", "actions"),
        ("openvla-v01-tiny", "actions"),
    ],
)
def test_parity(golden: Path, checkpoint: str, cases: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(golden / checkpoint), str(golden / cases)]) == 0
    assert "parity holds" in capsys.readouterr().out


def test_every_float32_array_of_the_cases_is_compared(engine: Engine, golden: Path) -> None:
    report = verify_cases(engine, golden / "openvla-tiny-cases")
    assert all(row.compared == 16 for row in report.rows.values())
    assert {"pixel_values", "vision_features", "projected_features", "first_logits", "step_action_logits"} < set(
        report.rows
    )
    assert report.notes[1:] == ["not compared in float32: bf16_first_action_logits, bf16_generated_ids"]


def test_bfloat16_is_shown_but_not_judged(golden: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """bf16 tokens of random weights differ from float32's in 6 of 16 cases: a failure there would mean nothing."""
    arguments = ["verify", str(tiny), str(golden / "openvla-tiny-cases"), "--precision", "bf16"]
    assert main(arguments) == 0
    assert "not judged" in capsys.readouterr().out


def test_another_checkpoints_cases_fail(golden: Path, tiny_copy: Path, edit_json, capsys) -> None:
    """The same shapes with another rms_norm_eps: exit status 1, and the table says where."""
    edit_json(tiny_copy / "config.json", lambda config: config["text_config"].update(rms_norm_eps=1e-5))
    assert main(["verify", str(tiny_copy), str(golden / "openvla-tiny-cases")]) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out
    assert "parity is broken" in out


@pytest.fixture
def cases_copy(golden: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden / "openvla-v01-tiny-cases", tmp_path / "cases"))


def _rewrite(path: Path, **changes: np.ndarray | None) -> None:
    arrays = dict(np.load(path)) | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def test_a_missing_array_is_an_error(v01: Path, cases_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _rewrite(cases_copy / "cases.npz", projected_features=None)
    assert main(["verify", str(v01), str(cases_copy)]) == 2
    assert "no array 'projected_features'" in capsys.readouterr().err


def test_too_few_rows_are_an_error(v01: Path, cases_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _rewrite(cases_copy / "cases.npz", first_logits=np.zeros((2, 32064), dtype=np.float32))
    assert main(["verify", str(v01), str(cases_copy)]) == 2
    assert "2 rows" in capsys.readouterr().err


def test_cases_of_other_action_dimensions_are_an_error(v01: Path, cases_copy: Path, capsys) -> None:
    _rewrite(cases_copy / "cases.npz", generated_ids=np.zeros((4, 5), dtype=np.int64))
    assert main(["verify", str(v01), str(cases_copy)]) == 2
    assert "has 7 dimensions, the cases have 5" in capsys.readouterr().err


def test_an_altered_input_is_an_error(v01: Path, cases_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.load(cases_copy / "cases.npz")["image_01"]
    _rewrite(cases_copy / "cases.npz", image_01=255 - image)
    assert main(["verify", str(v01), str(cases_copy)]) == 2
    assert "sha256_image" in capsys.readouterr().err


def test_an_array_of_another_shape_or_nan_fails(v01: Path, cases_copy: Path) -> None:
    """np.abs(nan - x).max() > tolerance is False: NaN must not slip through the comparison."""
    logits = np.load(cases_copy / "cases.npz")["first_logits"]
    logits[0, 0] = np.nan
    _rewrite(cases_copy / "cases.npz", first_logits=logits, step_action_logits=np.zeros((4, 6, 320), dtype=np.float32))
    report = verify_cases(Engine(v01), cases_copy)
    failed = {name for name, row in report.rows.items() if not row.passed}
    assert failed == {"first_logits", "step_action_logits"}
    assert report.rows["first_logits"].deviation == np.inf


@pytest.mark.parametrize("missing", ["pixel_values.npz", "cases.npz", "cases.json"])
def test_a_missing_file_is_an_error(v01: Path, cases_copy: Path, missing: str) -> None:
    (cases_copy / missing).unlink()
    assert main(["verify", str(v01), str(cases_copy)]) == 2


def test_a_missing_folder_is_an_error(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tiny), str(tmp_path / "nowhere")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_info_tells_which_datasets_may_drive_an_arm(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny)]) == 0
    out = capsys.readouterr().out
    assert "bridge_orig" in out
    assert "no: it is not declared what the actions of 'tiny_lab'" in out


def test_info_tells_which_precisions_run_here(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    assert main(["info", str(tiny), "--device", "cpu"]) == 0
    rows = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.count("│") == 5}
    assert "weight-only int4, asymmetric, group_size 128" in rows["int4-wo"]
    assert "compute_dtype float32" in rows["float32"]
    assert "no: precision 'fp8' needs an NVIDIA GPU" in rows["fp8"]
