"""Episodes to datasets and back: LeRobot here; RLDS where TensorFlow is installed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episode_maker import BEGIN, DOWN, PERIOD, actions, index_of, write_episode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from openvla_ros.cli.main import main
from openvla_ros.errors import RecordingError
from openvla_ros.policy.openvla.statistics import ActionStatistics
from openvla_ros.policy.semantics import semantics_for
from openvla_ros.recording.episode import Episode
from openvla_ros.recording.export import FORMATS
from openvla_ros.recording.export.exporter import ExportOptions, export_episodes
from openvla_ros.recording.export.importer import import_dataset
from openvla_ros.recording.export.noop import NoopFilter
from openvla_ros.recording.export.rlds import example
from openvla_ros.recording.export.trajectory import choose_cameras, read_trajectory
from openvla_ros.recording.provenance import EpisodeOutcome

pytest.importorskip("pyarrow", reason="LeRobot exports need pip install 'openvla_ros[lerobot]'")

FORMATS_HERE = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "rlds" and not find_spec("tensorflow_datasets"),
            reason="RLDS needs TensorFlow: pip install 'openvla_ros[rlds]'",
        ),
    )
    for name in FORMATS
]


def export(episodes: list[Episode], output: Path, **options: Any) -> Path:
    options = {"format": "lerobot", "name": "blocks"} | options
    return export_episodes([e.folder for e in episodes], output, ExportOptions(**options)).folder


def transitions(episode: Episode, **options: Any) -> Any:
    trajectory, _ = read_trajectory(episode, choose_cameras(episode, {}), options.get("source", "accepted"))
    return trajectory


@pytest.mark.parametrize("format", FORMATS_HERE)
def test_round_trip(tmp_path: Path, format: str) -> None:
    """Hazards: actions rounded to float32; image i+1 or the next episode's image with action i; red and blue swapped;
    an instruction that changed within the episode; one episode's end taken for the next one's begin."""
    episodes = [
        write_episode(tmp_path / "a", "one", actions(5), instructions=("open", "open", "close")),
        write_episode(tmp_path / "a", "two", -actions(3), instructions=("Öffne 'es'",), outcome=EpisodeOutcome.FAILURE),
    ]
    dataset = export(episodes, tmp_path / "out", format=format)
    folders = import_dataset(dataset, tmp_path / "b")
    assert [folder.name for folder in folders] == ["one", "two"]
    for before, folder in zip(episodes, folders, strict=True):
        after = Episode.open(folder)
        first, second = transitions(before), transitions(after)
        assert first.actions.tobytes() == second.actions.tobytes()
        assert first.proprio.tobytes() == second.proprio.tobytes()
        assert first.joints.tobytes() == second.joints.tobytes()
        assert first.instructions == second.instructions
        np.testing.assert_allclose(second.stamps, first.stamps, atol=1e-6)
        for i, step in enumerate(after.steps()):
            assert index_of(step.image) == i
            assert step.image[..., 1].mean() == pytest.approx(200, abs=6)
            assert step.image[..., 2].mean() == pytest.approx(30, abs=6)
        assert after.provenance.outcome is before.provenance.outcome
        assert after.provenance.robot == "wx250s"


@pytest.mark.parametrize("format", FORMATS_HERE)
@pytest.mark.parametrize("quality", [None, 95])
def test_images_survive_as_the_format_promises(tmp_path: Path, format: str, quality: int | None) -> None:
    """Hazard: a loss with every conversion. PNG loses nothing; JPEG from the bag is passed on byte by byte."""
    episode = write_episode(tmp_path / "a", quality=quality, size=(33, 47))
    options = {"images": "png"} if format == "lerobot" else {}
    dataset = export([episode], tmp_path / "out", format=format, format_options=options)
    (folder,) = import_dataset(dataset, tmp_path / "b", image_quality=None)
    lossless = format == "lerobot" or quality is not None
    for before, after in zip(episode.steps(), Episode.open(folder).steps(), strict=True):
        difference = np.abs(before.image.astype(int) - after.image)
        assert difference.max() <= (0 if lossless else 4)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_finite_actions_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Invariant of the round trip: actions, instructions and boundaries of whatever episodes."""
    root = tmp_path_factory.mktemp("trip")
    finite = st.floats(-1e100, 1e100)  # their squares, in the statistics, are finite too
    text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
    episodes = []
    for i in range(data.draw(st.integers(1, 3))):
        asked = data.draw(npst.arrays(np.float64, (data.draw(st.integers(1, 4)), 7), elements=finite))
        words = data.draw(st.lists(text, min_size=1, max_size=3))
        episodes.append(write_episode(root / "a", f"e{i}", asked, instructions=words, size=(8, 8)))
    dataset = export(episodes, root / "out", format_options={"images": "png"})
    for before, folder in zip(episodes, import_dataset(dataset, root / "b"), strict=True):
        first, second = transitions(before), transitions(Episode.open(folder))
        assert first.actions.tobytes() == second.actions.tobytes()
        assert first.instructions == second.instructions


def test_observation_is_never_after_its_image(tmp_path: Path) -> None:
    """Hazard: proprio of the future, which a policy can't have at inference."""
    trajectory = transitions(write_episode(tmp_path))
    np.testing.assert_allclose(trajectory.proprio[:, 0], 0.3 + np.arange(4) / 100)
    np.testing.assert_allclose(trajectory.proprio[:, 3:7], np.tile(DOWN, (4, 1)))
    np.testing.assert_allclose(trajectory.joints[:, 0], np.arange(4))


def test_accepted_actions_are_what_the_arm_was_told(tmp_path: Path) -> None:
    """Hazard: training on what the filter had refused or cut down."""
    episode = write_episode(tmp_path, verdicts=["accepted", "limited", "refused", "accepted"])
    trajectory, left_out = read_trajectory(episode, choose_cameras(episode, {}), "accepted")
    asked = actions(4)
    np.testing.assert_array_equal(trajectory.actions, [asked[0], asked[1] / 2, asked[3]])
    assert left_out == {"refused by the safety filter": 1}
    assert [index_of(p["primary"].rgb()) for p in trajectory.pictures()] == [0, 1, 3]
    raw, _ = read_trajectory(episode, choose_cameras(episode, {}), "raw")
    np.testing.assert_array_equal(raw.actions, asked)


def test_labels_are_what_the_demonstrator_would_have_done(tmp_path: Path) -> None:
    """Hazard: a policy that learns its own mistakes; a label with the next step's image."""
    episode = write_episode(tmp_path, labels=-actions(4))
    trajectory, left_out = read_trajectory(episode, choose_cameras(episode, {}), "label")
    np.testing.assert_array_equal(trajectory.actions, -actions(4))
    assert [index_of(p["primary"].rgb()) for p in trajectory.pictures()] == [0, 1, 2, 3]
    assert not left_out


def test_an_action_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    """Hazard: one NaN makes all statistics NaN, and so every normalised action."""
    asked = actions(4)
    asked[2, 1] = np.nan
    episode = write_episode(tmp_path / "a", asked=asked)
    exported = export_episodes([episode.folder], tmp_path / "out", ExportOptions("lerobot", "blocks", source="raw"))
    assert exported.manifest.left_out == {"action not finite": 1}
    stats = json.loads((exported.folder / "dataset_statistics.json").read_text())["blocks"]["action"]
    assert np.isfinite(stats["mean"]).all()


def test_statistics_are_openvlas(tmp_path: Path) -> None:
    """As prismatic/vla/datasets/rlds computes them, over transitions and not over episodes, and loadable as such."""
    asked = np.concatenate([actions(9), actions(2) * 50])
    episodes = [write_episode(tmp_path / "a", "one", asked[:9]), write_episode(tmp_path / "a", "two", asked[9:])]
    dataset = export(episodes, tmp_path / "out")
    entry = json.loads((dataset / "dataset_statistics.json").read_text())["blocks"]
    for name, expected in {
        "mean": asked.mean(0),
        "std": asked.std(0),
        "min": asked.min(0),
        "max": asked.max(0),
        "q01": np.quantile(asked, 0.01, axis=0),
        "q99": np.quantile(asked, 0.99, axis=0),
    }.items():
        np.testing.assert_allclose(entry["action"][name], expected, rtol=1e-12)
    assert entry["action"]["mask"] == [True] * 6 + [False]
    assert len(entry["proprio"]["q99"]) == 8
    assert (entry["num_transitions"], entry["num_trajectories"]) == (11, 2)
    ActionStatistics.from_entry("blocks", entry).check_drivable("blocks")
    semantics = semantics_for("blocks", entry)
    assert (semantics.rotation, semantics.control_hz) == ("rpy_fixed_axes", 5.0)
    np.testing.assert_allclose(semantics.to_action(asked[3]).to_array(), asked[3])


class TestNoops:
    """Near-zero motion with an unchanged gripper."""

    def test_grasps_and_motions_stay(self) -> None:
        """Hazard: closing the gripper in place, the most important step of all, taken for standing still."""
        rows = np.zeros((6, 7))
        rows[0, 0] = 0.01  # moves
        rows[2:, 6] = 1.0  # 2 opens, 3 stays open
        rows[4, 5] = 0.01  # turns
        assert NoopFilter().keep(rows).tolist() == [True, False, True, False, True, False]

    def test_slow_closing_does_not_vanish(self) -> None:
        """Hazard: each change below the threshold, all of them together a grasp."""
        rows = np.zeros((101, 7))
        rows[0, 0] = 0.01
        rows[:, 6] = np.linspace(1.0, 0.5, 101)
        kept = rows[NoopFilter(gripper=0.02).keep(rows), 6]
        assert np.abs(np.diff(kept)).max() < 0.026
        assert kept[-1] == pytest.approx(0.5, abs=0.02)

    def test_pairs_stay_pairs(self, tmp_path: Path) -> None:
        """Hazard: steps leave, their images stay. Counted, and on record."""
        asked = actions(5)
        asked[[1, 3], :6] = 0.0
        asked[:, 6] = 1.0
        episode = write_episode(tmp_path / "a", asked=asked)
        exported = export_episodes(
            [episode.folder], tmp_path / "out", ExportOptions("lerobot", "blocks", noops=NoopFilter())
        )
        assert exported.manifest.left_out == {"no-op": 2}
        (folder,) = import_dataset(exported.folder, tmp_path / "b")
        steps = list(Episode.open(folder).steps())
        assert [index_of(s.image) for s in steps] == [0, 2, 4]
        np.testing.assert_array_equal([s.raw.to_array() for s in steps if s.raw], asked[[0, 2, 4]])


class TestRLDSExample:
    """What needs no TensorFlow."""

    @pytest.mark.parametrize("outcome", list(EpisodeOutcome))
    def test_flags(self, tmp_path: Path, outcome: EpisodeOutcome) -> None:
        """Hazards: first and last swapped or missing, a cut-off episode called terminal, a failure rewarded."""
        steps = example(transitions(write_episode(tmp_path, outcome=outcome)))["steps"]
        assert [s["is_first"] for s in steps] == [True, False, False, False]
        assert [s["is_last"] for s in steps] == [False, False, False, True]
        judged = outcome in (EpisodeOutcome.SUCCESS, EpisodeOutcome.FAILURE)
        assert [s["is_terminal"] for s in steps] == [False, False, False, judged]
        assert [s["reward"] for s in steps] == [0, 0, 0, outcome is EpisodeOutcome.SUCCESS]

    def test_single_step(self, tmp_path: Path) -> None:
        (step,) = example(transitions(write_episode(tmp_path, asked=actions(1))))["steps"]
        assert step["is_first"]
        assert step["is_last"]

    def test_gripper_is_open_at_one(self, tmp_path: Path) -> None:
        """Hazard: sign. OpenVLA's RLDS data have 1 = open, as Action has."""
        steps = example(transitions(write_episode(tmp_path)))["steps"]
        assert [s["action"][6] for s in steps] == [0, 1, 0, 1]

    def test_wrist_camera(self, tmp_path: Path) -> None:
        """Hazard: cameras swapped."""
        steps = example(transitions(write_episode(tmp_path, wrist=True, quality=95)))["steps"]
        assert set(steps[0]["observation"]) >= {"image_primary", "image_wrist", "proprio"}
        assert steps[0]["observation"]["image_primary"] != steps[0]["observation"]["image_wrist"]


def test_lerobot_layout(tmp_path: Path) -> None:
    """Boundaries, videos and counts as LeRobotDataset v3.0 finds them."""
    import pandas as pd
    import pyarrow.parquet as pq

    episodes = [write_episode(tmp_path / "a", n, actions(k), wrist=True) for n, k in (("one", 5), ("two", 3))]
    dataset = export(episodes, tmp_path / "out")
    info = json.loads((dataset / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 5, 8)
    assert {k for k, f in info["features"].items() if f["dtype"] == "video"} == {
        "observation.images.primary",
        "observation.images.wrist",
    }
    data = pq.read_table(dataset / "data" / "chunk-000" / "file-000.parquet").to_pydict()
    assert data["index"] == list(range(8))
    assert data["episode_index"] == [0] * 5 + [1] * 3
    assert data["frame_index"] == [0, 1, 2, 3, 4, 0, 1, 2]
    np.testing.assert_allclose(data["timestamp"], np.array(data["frame_index"]) / 5, atol=1e-6)
    np.testing.assert_allclose(data["stamp"][:5], BEGIN + PERIOD * np.arange(5), atol=1e-6)
    rows = pq.read_table(dataset / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert [(r["dataset_from_index"], r["dataset_to_index"]) for r in rows] == [(0, 5), (5, 8)]
    assert [r["videos/observation.images.wrist/from_timestamp"] for r in rows] == [0.0, 1.0]
    tasks = pd.read_parquet(dataset / "meta" / "tasks.parquet")
    assert tasks.loc["lift the red block"].task_index == 0
    stats = json.loads((dataset / "meta" / "stats.json").read_text())
    assert np.shape(stats["observation.images.primary"]["mean"]) == (3, 1, 1)
    assert stats["observation.images.primary"]["mean"][1][0][0] == pytest.approx(200 / 255, abs=0.01)


class TestRefusals:
    def test_episodes_of_two_robots(self, tmp_path: Path) -> None:
        """Hazard: frames of two robots under one name."""
        episodes = [write_episode(tmp_path / "a", "one"), write_episode(tmp_path / "a", "two", robot="fr3")]
        with pytest.raises(RecordingError, match=r"robot is wx250s in .* but fr3"):
            export(episodes, tmp_path / "out")
        assert list((tmp_path / "out").iterdir() if (tmp_path / "out").exists() else []) == []

    def test_two_image_sizes(self, tmp_path: Path) -> None:
        episodes = [write_episode(tmp_path / "a", "one"), write_episode(tmp_path / "a", "two", size=(16, 16))]
        with pytest.raises(RecordingError, match="image sizes"):
            export(episodes, tmp_path / "out")

    def test_nothing_left(self, tmp_path: Path) -> None:
        episode = write_episode(tmp_path / "a", verdicts=["refused"] * 4)
        with pytest.raises(RecordingError, match="nothing is left"):
            export([episode], tmp_path / "out")

    def test_outcomes(self, tmp_path: Path) -> None:
        episodes = [
            write_episode(tmp_path / "a", o.value, outcome=o) for o in (EpisodeOutcome.SUCCESS, EpisodeOutcome.FAILURE)
        ]
        exported = export_episodes(
            [e.folder for e in episodes],
            tmp_path / "out",
            ExportOptions("lerobot", "b", outcomes=[EpisodeOutcome.SUCCESS]),
        )
        assert exported.skipped == {"failure": "outcome failure"}
        assert len(exported.manifest.episodes) == 1

    def test_failure_leaves_nothing(self, tmp_path: Path) -> None:
        """Hazard: half a dataset that looks like a whole one."""
        with pytest.raises(RecordingError, match="even sizes"):
            export([write_episode(tmp_path / "a", size=(33, 48))], tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_full_or_unwritable_disk(self, tmp_path: Path) -> None:
        """A file where the folder should be fails as a full disk does."""
        (tmp_path / "out").write_text("")
        with pytest.raises(RecordingError, match="can't be written"):
            export([write_episode(tmp_path / "a")], tmp_path / "out")

    def test_name_taken(self, tmp_path: Path) -> None:
        episode = write_episode(tmp_path / "a")
        export([episode], tmp_path / "out")
        with pytest.raises(RecordingError, match="exists already"):
            export([episode], tmp_path / "out")

    def test_import_of_a_foreign_dataset(self, tmp_path: Path) -> None:
        """Hazard: driving an arm with numbers of unknown meaning."""
        dataset = export([write_episode(tmp_path / "a")], tmp_path / "out")
        (dataset / "openvla_ros.json").unlink()
        with pytest.raises(RecordingError, match="known what the actions"):
            import_dataset(dataset, tmp_path / "b")

    def test_import_over_existing_episodes(self, tmp_path: Path) -> None:
        dataset = export([write_episode(tmp_path / "a")], tmp_path / "out")
        with pytest.raises(RecordingError, match="exists already"):
            import_dataset(dataset, tmp_path / "a")

    def test_changed_dataset(self, tmp_path: Path) -> None:
        """Hazard: the provenance of one episode with the actions of another."""
        dataset = export([write_episode(tmp_path / "a")], tmp_path / "out")
        manifest = json.loads((dataset / "openvla_ros.json").read_text())
        manifest["episodes"][0]["transitions"] = 3
        (dataset / "openvla_ros.json").write_text(json.dumps(manifest))
        with pytest.raises(RecordingError, match="changed after the export"):
            import_dataset(dataset, tmp_path / "b")


class TestVerbs:
    def test_there_and_back(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        episode = write_episode(tmp_path / "a", wrist=True)
        arguments = ["export", str(tmp_path / "a"), "--format", "lerobot", "--name", "blocks", "--drop-noops"]
        assert main([*arguments, "--output", str(tmp_path / "out"), "--images", "png", "--outcome", "success"]) == 0
        assert "1 episodes, 4 steps at 5 Hz" in capsys.readouterr().out
        dataset = str(tmp_path / "out" / "blocks")
        assert main(["import", dataset, "--output", str(tmp_path / "b"), "--raw-images"]) == 0
        after = Episode.open(tmp_path / "b" / "one")
        assert transitions(after).actions.tobytes() == transitions(episode).actions.tobytes()
        assert after.cameras == ["/image", "/wrist/image"]

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["--camera", "primary"], "NAME=TOPIC"),
            (["--camera", "wrist=/image"], "'primary' is missing"),
            (["--camera", "primary=/front"], "there is no camera '/front'"),
            (["--outcome", "failure"], "nothing is left to export"),
            (["--drop-noops", "--noop-m", "-1"], "0 or more"),
            (["--drop-noops", "--noop-rad", "nan"], "0 or more"),
            (["--control-hz", "2.5"], "whole numbers"),
            (["--control-hz", "0"], "above 0"),
            (["--source", "label"], "no label"),
            (["--name", "My Blocks"], "can't be named"),
        ],
    )
    def test_bad_input_is_one_clear_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
    ) -> None:
        write_episode(tmp_path / "a", asked=actions(1))
        common = ["export", str(tmp_path / "a"), "--format", "lerobot", "--name", "blocks"]
        assert main([*common, "--output", str(tmp_path / "out"), *arguments]) == 2
        assert reason in capsys.readouterr().err
