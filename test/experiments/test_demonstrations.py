"""Demonstrations: what is on disk is what happened, whoever recorded it and however often it was cut off."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from openvla_ros.cli.main import main
from openvla_ros.errors import ConfigError
from openvla_ros.experiments.demonstrations import FIRST_SCENE, DemoSettings, plan, record
from openvla_ros.recording.episode import Episode
from openvla_ros.recording.export.noop import NoopFilter
from openvla_ros.recording.export.trajectory import choose_cameras, read_trajectory
from openvla_ros.sim.tasks import TASKS

SETTINGS = DemoSettings(
    name="small",
    image_size=(48, 48),
    instructions=("lift the red block", "lift the blue block"),
    seed=3,
    noops=NoopFilter(translation_m=0.004, rotation_rad=0.02),  # wide enough that every episode has some
)
COUNT = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three episodes, by two processes."""
    root = tmp_path_factory.mktemp("demos") / "small"
    summary = record(root, SETTINGS, COUNT, workers=2)
    assert summary.recorded == COUNT
    return root


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "small")


def contents(root, without=()):
    """Every file's bytes; logs of an MCAP file hold no time of the machine's own."""
    return {
        str(f.relative_to(root)): f.read_bytes()
        for f in sorted(root.rglob("*"))
        if f.is_file() and f.name not in without
    }


def test_the_number_of_processes_changes_nothing(folder, tmp_path):
    """A data set that depends on the machine's cores can't be made again."""
    record(tmp_path / "small", SETTINGS, COUNT, workers=1)
    assert contents(tmp_path / "small") == contents(folder)


def test_what_is_complete_is_kept_and_what_was_cut_off_is_done_again(folder, copy):
    """A night's recording must survive a power cut, and not hold half an episode after it."""
    cut = copy / "demo-000001"
    about = json.loads((cut / "episode.json").read_text())
    (cut / "episode.json").write_text(json.dumps({**about, "complete": False}))
    (cut / "demo-000001_0.mcap").write_bytes((cut / "demo-000001_0.mcap").read_bytes()[:5000])
    shutil.rmtree(copy / "demo-000002")
    (copy / "dataset_statistics.json").unlink()
    kept = (copy / "demo-000000" / "episode.json").stat().st_ino
    outcomes = {}
    record(copy, SETTINGS, COUNT, workers=1, progress=lambda d: outcomes.update({d.plan.index: d.outcome}))
    assert (copy / "demo-000000" / "episode.json").stat().st_ino == kept
    assert outcomes[0] is None
    assert outcomes[1].success
    assert outcomes[2].success
    assert contents(copy) == contents(folder)


def test_other_settings_do_not_mix(copy, tmp_path):
    """Two kinds of episodes in one folder would be one data set with the statistics of neither."""
    with pytest.raises(ConfigError, match=r"noisy_share was 0\.6, not 0\.0"):
        record(copy, SETTINGS.model_copy(update={"noisy_share": 0.0}), COUNT)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("dear")
    with pytest.raises(ConfigError, match="something else"):
        record(tmp_path / "letters", SETTINGS, COUNT)
    assert (tmp_path / "letters" / "love.txt").exists()


def test_label_is_clean_and_action_is_what_was_executed(folder):
    """Trained on the noisy action, a policy learns the noise; with the label in its place, replay would lie."""
    differ = []
    for i in range(COUNT):
        episode = Episode.open(folder / f"demo-{i:06d}")
        steps = list(episode.steps())
        assert len(steps) > 15
        noisy = episode.provenance.scene["noise"] is not None
        assert noisy == plan(SETTINGS, i).noisy
        for step in steps:
            assert step.image.shape == (48, 48, 3)
            assert np.linalg.norm(step.label.translation) <= 0.015 + 1e-9
            same = np.allclose(step.label.to_array(), step.raw.to_array())
            assert noisy or same
            if step.verdict == "accepted":
                np.testing.assert_allclose(step.filtered.to_array(), step.raw.to_array())
        differ += [noisy and not same]
    assert any(differ)


def test_episodes_are_as_the_recorders(folder):
    """Every tool for episodes reads them: provenance, outcome, arm states that are not younger than the image."""
    episode = Episode.open(folder / "demo-000000")
    about = episode.provenance
    assert (about.outcome.value, about.score, about.complete, about.source) == ("success", 1.0, True, "simulation")
    assert about.instructions[0].text == plan(SETTINGS, 0).instruction
    assert about.control.mode == plan(SETTINGS, 0).mode
    assert about.topics["/image/compressed"].lost == 0
    assert about.scene["seed"] >= FIRST_SCENE
    for step in episode.steps():
        assert step.state is not None
        assert step.state.stamp == pytest.approx(step.stamps["image"])


def test_statistics_are_openvlas_of_labels_without_noops(folder):
    """A checkpoint trained on these must find them in the official layout, with its actions' meaning declared."""
    labels = []
    for i in range(COUNT):
        episode = Episode.open(folder / f"demo-{i:06d}")
        trajectory, _ = read_trajectory(episode, choose_cameras(episode, {}), "label")
        labels.append(trajectory.actions[SETTINGS.noops.keep(trajectory.actions)])
    labels = np.concatenate(labels)
    summary = json.loads((folder / "demonstrations.json").read_text())
    entry = json.loads((folder / "dataset_statistics.json").read_text())["small"]
    assert entry["num_transitions"] == summary["transitions"] == len(labels)
    assert summary["noops"] > 0
    np.testing.assert_allclose(entry["action"]["q99"], np.quantile(labels, 0.99, axis=0))
    assert entry["action"]["mask"] == [True] * 6 + [False]
    assert entry["action_semantics"]["rotation"] == "rpy_fixed_axes"
    assert entry["action_semantics"]["control_hz"] == 5.0


def test_a_failed_episode_is_counted_and_not_there(tmp_path):
    """A demonstration of failure teaches failure. 42 steps are enough to lift a block, not to place one."""
    instructions = ("lift the red block", "put the red block on the plate")
    settings = DemoSettings(image_size=(48, 48), instructions=instructions, noisy_share=0, max_steps=34)
    summary = record(tmp_path / "demos", settings, 2, workers=1)
    assert (summary.episodes, summary.recorded, summary.failed) == (2, 1, ["demo-000001"])
    assert not (tmp_path / "demos" / "demo-000001").exists()
    assert summary.by_instruction == {"lift the red block": 1}


def test_plans_are_of_the_index_alone_and_in_balance():
    """More episodes later must be more of the same, and no scene of an evaluation may be among them."""
    settings = DemoSettings()
    plans = [plan(settings, i) for i in range(600)]
    assert {p.instruction for p in plans[:6]} == set(TASKS)
    assert len({p.scene for p in plans}) == 600
    assert min(p.scene for p in plans) >= FIRST_SCENE
    assert 0.5 < np.mean([p.noisy for p in plans]) < 0.7
    assert 0.4 < np.mean([p.mode == "non_blocking" for p in plans]) < 0.6
    assert {p.latency for p in plans if p.mode == "blocking"} == {0.0}
    assert plan(settings.model_copy(update={"seed": 1}), 0).scene != plans[0].scene


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--noise", "2"], "--noise 2.0"),
        (["--size", "12x"], "--size is '12x'"),
        (["--episodes", "0"], "--episodes is 0"),
        (["--name", "A b"], "--name"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, capsys, arguments, said):
    assert main(["record-demos", str(tmp_path / "demos"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "demos").exists()
