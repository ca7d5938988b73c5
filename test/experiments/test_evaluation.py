"""Scores say what happened, with how sure that is; an evaluation ends in numbers whatever the policy does."""

from __future__ import annotations

import json

import cv2
import pytest

from openvla_ros.cli.main import main
from openvla_ros.experiments.evaluation import EvaluationSettings, trials
from openvla_ros.experiments.rollout import RolloutResult
from openvla_ros.experiments.scores import rate, score, scores
from openvla_ros.paths import resource_file


def outcome(instruction="lift the red block", success=True, others=(), steps=20, seconds=8.0, no_action=None):
    return RolloutResult(instruction, 0, success, frozenset(others), steps, no_action or {}, seconds)


def test_wilson_interval():
    """Against the published example: 81 of 263 is 0.2553 to 0.3662 (Newcombe 1998, Statistics in Medicine 17, 857)."""
    found = rate(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert rate(20, 20).low == pytest.approx(0.8389, abs=1e-4), "no certainty of 20 successes"


def test_scores_by_instruction():
    found = scores(
        [
            outcome(),
            outcome(success=False, others=["blue"], steps=120, seconds=60.0),
            outcome("fold the towel", success=None, steps=0, no_action={"no action tokens": 7}),
        ]
    )
    red, towel = found["lift the red block"], found["fold the towel"]
    assert (red.success.count, red.success.of, red.wrong_object.count) == (1, 2, 1)
    assert (red.steps, red.seconds) == (70.0, 8.0), "time is that of the successes"
    assert (towel.success, towel.no_action, towel.seconds) == (None, 7.0, None)
    assert score([outcome(success=None)]).success is None


def test_instructions_share_their_scenes():
    """Otherwise a difference between instructions, or control modes, may be one between scenes."""
    planned = trials(EvaluationSettings(episodes=12, first_scene=5))
    assert [t.scene for t in planned] == [5] * 6 + [6] * 6
    assert len({t.instruction for t in planned[:6]}) == 6


def test_a_checkpoint_from_end_to_end(tmp_path, capsys):
    """The tiny checkpoint's weights are random, one colour is absent and one sentence means nothing: no crash."""
    arguments = ["evaluate", "--sim", "--checkpoint", str(resource_file("openvla-tiny")), "--unnorm-key", "bridge_orig"]
    arguments += ["--episodes", "3", "--max-steps", "3", "--mode", "non_blocking", "--workers", "1"]
    for text in ("lift the red block", "lift the yellow block", "sing"):
        arguments += ["--instruction", text]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert [e["success"] for e in result["episodes"]] == [False, None, None]
    assert result["by_instruction"]["sing"]["success"] is None
    assert result["overall"]["success"] == {**result["overall"]["success"], "count": 0, "of": 1, "low": 0.0}
    assert result["settings"]["latency"] > 0, "measured"
    assert result["inference_ms"] > 0
    assert result["described"]["unnorm_key"] == "bridge_orig"
    picture = cv2.imread(str(tmp_path / "final_frames.png"))
    assert picture.shape[1] > 700
    blue, green, redness = picture[5, 5].tolist()
    assert redness > 2 * max(blue, green), "the first failed"
    assert "not judged" in capsys.readouterr().out


def test_the_expert_knows_its_instructions(tmp_path):
    arguments = [
        "evaluate",
        "--sim",
        "--expert",
        "--episodes",
        "1",
        "--mode",
        "non_blocking",
        "--output",
        str(tmp_path),
    ]
    assert main(arguments) == 0
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert result["overall"]["success"]["count"] == 1
    assert result["settings"]["latency"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--expert", "--latency", "soon"], "--latency 'soon'"),
        (["--expert", "--episodes", "0"], "--episodes 0"),
        (["--checkpoint", "nowhere/at-all/really"], "nowhere/at-all/really"),
    ],
)
def test_wrong_arguments_are_named(capsys, arguments, said):
    assert main(["evaluate", "--sim", *arguments]) == 2
    assert said in capsys.readouterr().err
