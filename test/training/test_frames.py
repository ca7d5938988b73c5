"""Data: recorded and exported episodes alike, as their expert labelled them, and clear words on what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from episode_maker import actions, index_of, write_episode

from openvla_ros.errors import RecordingError, TrainingError
from openvla_ros.recording.episode import Episode
from openvla_ros.recording.export.exporter import ExportOptions, episodes_at, export_episodes
from openvla_ros.recording.export.noop import NoopFilter
from openvla_ros.recording.provenance import EpisodeOutcome
from openvla_ros.training.frames import Frames, read_frames
from openvla_ros.training.settings import TrainSettings

Make = Callable[..., TrainSettings]


def enlarge(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((56, 56)))


def assert_same(first: Frames, second: Frames) -> None:
    for name, value in vars(first).items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(value, getattr(second, name)), name
    assert (first.instructions, first.episodes, first.control_hz) == (
        second.instructions,
        second.episodes,
        second.control_hz,
    )


def test_labels_are_learned_and_not_what_was_executed(frames: Frames, settings: Make) -> None:
    """The executed actions carry noise that is there to lead astray: cloned, it would lead the policy astray too."""
    executed = read_frames(settings(actions="raw", noops=None), enlarge)
    labelled = read_frames(settings(noops=None), enlarge)
    assert len(executed) == len(labelled)
    assert not np.allclose(executed.actions, labelled.actions, atol=1e-3)
    episode = Episode.open(next(iter(sorted(settings().data[0].glob("demo-*")))))
    first = next(iter(episode.trace.steps.values()))
    assert first.label is not None
    assert np.array_equal(labelled.actions[0], first.label.to_array())


def test_every_image_stands_beside_its_action(frames: Frames, demos: Path) -> None:
    """Off by one, a policy learns to act on what it saw before."""
    episode = Episode.open(demos.parent / frames.episodes[0])
    kept = NoopFilter().keep(np.array([s.label.to_array() for s in episode.trace.steps.values() if s.label]))
    images = [step.frames[episode.cameras[0]].rgb() for step in episode.steps(episode.cameras[:1])]
    wanted = [enlarge(image) for image, keep in zip(images, kept, strict=True) if keep]
    assert np.array_equal(frames.images[frames.episode == 0], wanted)


def test_an_episode_without_labels_teaches_what_was_accepted(settings: Make, tmp_path: Path) -> None:
    """A rollout on a real arm, judged a success: what the safety filter refused was not part of it."""
    asked = actions(5)
    write_episode(
        tmp_path / "rollouts", asked=asked, verdicts=["accepted", "refused", "accepted", "accepted", "accepted"]
    )
    write_episode(tmp_path / "rollouts", "failed", asked, outcome=EpisodeOutcome.FAILURE)
    mine = settings(data=[tmp_path / "rollouts"], noops=None)
    read = read_frames(mine, lambda image: image[:28, :28])
    assert np.array_equal(read.actions, asked[[0, 2, 3, 4]])
    assert [index_of(image) for image in read.images] == [0, 2, 3, 4]
    assert read.left_out == {"refused by the safety filter": 1, "episodes with outcome failure": 1}
    assert len(read_frames(settings(data=mine.data, noops=None, outcomes=[]), lambda i: i[:28, :28])) == 9


def test_labels_win_in_episodes_that_have_some(settings: Make, tmp_path: Path) -> None:
    write_episode(tmp_path / "rollouts", asked=actions(5), labels=actions(5) / 2)
    read = read_frames(settings(data=[tmp_path / "rollouts"], noops=None), lambda image: image[:28, :28])
    assert np.array_equal(read.actions, actions(5) / 2)


def test_another_camera_is_read_if_asked_for(settings: Make, tmp_path: Path) -> None:
    write_episode(tmp_path / "rollouts", asked=actions(3), wrist=True)
    blue = []
    for camera in ("", "wrist/image"):
        mine = settings(data=[tmp_path / "rollouts"], noops=None, camera=camera)
        blue.append(read_frames(mine, lambda image: image[:28, :28]).images[0, 0, 0, 2])
    assert blue[0] != blue[1]


def test_what_the_recorder_counted_is_what_is_read(frames: Frames, demos: Path) -> None:
    summary = json.loads((demos / "demonstrations.json").read_text())
    assert len(frames) == summary["transitions"]
    assert frames.left_out.get("no-op", 0) == summary["noops"]


def test_an_export_reads_like_the_episodes_it_was_made_of(
    frames: Frames, demos: Path, settings: Make, tmp_path: Path
) -> None:
    options = ExportOptions("lerobot", "small", source="label", noops=NoopFilter(), format_options={"images": "png"})
    folder = export_episodes(episodes_at([demos]), tmp_path, options).folder
    assert_same(read_frames(settings(data=[folder]), enlarge), frames)


def test_what_is_on_disk_is_read_once_and_again_when_it_changed(settings: Make, demos: Path, tmp_path: Path) -> None:
    """A cache of data as they were before an episode was added would train on less than one thinks."""
    copy = shutil.copytree(demos, tmp_path / "copy")
    mine = settings(data=[copy])
    read: list[str] = []
    read_frames(mine, enlarge, read.append)
    read_frames(mine, enlarge, read.append)
    assert read == ["copy/demo-000000", "copy/demo-000001", "copy/demo-000002"]
    shutil.rmtree(copy / "demo-000001")
    assert len(read_frames(mine, enlarge, read.append).episodes) == 2
    # One cache may serve several models: another way of resizing is not to find the images of this one.
    turned = read_frames(mine, lambda image: enlarge(image)[::-1], read.append)
    assert len(read) == 7
    assert np.array_equal(turned.images[:, ::-1], read_frames(mine, enlarge).images)


def test_a_cache_that_was_cut_off_is_built_again(
    settings: Make, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(name: str) -> None:
        if name == "small/demo-000002":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_frames(settings(), enlarge, stop)
    assert_same(read_frames(settings(), enlarge), frames)


def test_nothing_to_learn_from_is_said(settings: Make, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no folder"):
        read_frames(settings(data=[tmp_path / "missing"]), enlarge)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="nothing to learn from"):
        read_frames(settings(data=[tmp_path / "empty"]), enlarge)
    with pytest.raises(TrainingError, match="outcome success: 3"):
        read_frames(settings(outcomes=["failure"]), enlarge)


def test_a_camera_that_is_not_there_is_named(settings: Make) -> None:
    with pytest.raises(RecordingError, match="no camera 'wrist'"):
        read_frames(settings(camera="wrist"), enlarge)


def test_an_episode_counts_once(settings: Make, demos: Path, tmp_path: Path) -> None:
    """Every recording begins with demo-000000: another round of them is no repetition, the same folder is."""
    for other in (demos, demos / "demo-000000", demos.parent):
        with pytest.raises(TrainingError, match="hold the same episodes"):
            read_frames(settings(data=[demos, other]), enlarge)
    for name in ("again", "more/small"):
        shutil.copytree(demos, tmp_path / name)
    assert len(read_frames(settings(data=[demos, tmp_path / "again"]), enlarge).episodes) == 6
    with pytest.raises(TrainingError, match="two episodes small/demo-000000"):
        read_frames(settings(data=[demos, tmp_path / "more" / "small"]), enlarge)


def test_a_full_disk_is_said_before_training(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(TrainingError, match="No space left"):
        read_frames(settings(), enlarge)
    assert not list((settings().output / "cache").iterdir())


def test_two_rates_do_not_mix(settings: Make, demos: Path, tmp_path: Path) -> None:
    """A step at 5 Hz is another distance than one at 10 Hz."""
    copy = shutil.copytree(demos, tmp_path / "copy")
    file = copy / "demo-000001" / "episode.json"
    about = json.loads(file.read_text())
    about["control"]["control_hz"] = 10.0
    file.write_text(json.dumps(about))
    with pytest.raises(
        TrainingError, match="control rates differ: 5 Hz in episode copy/demo-000000, 10 Hz in copy/demo-000001"
    ):
        read_frames(settings(data=[copy]), enlarge)
