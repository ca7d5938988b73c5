"""Exports as their target libraries themselves read them. Opt-in: neither library is among the test requirements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episode_maker import actions, index_of, write_episode

from openvla_ros.recording.export.exporter import ExportOptions, export_episodes
from openvla_ros.recording.provenance import EpisodeOutcome

ASKED = {"one": actions(5), "two": -actions(3)}


def export(root: Path, format: str, **options: Any) -> Path:
    words = {"one": ("open", "open", "close"), "two": ("push",)}
    folders = [
        write_episode(root / "a", name, asked, instructions=words[name], wrist=True, quality=95, size=(64, 96)).folder
        for name, asked in ASKED.items()
    ]
    return export_episodes(folders, root / "out", ExportOptions(format, "blocks", format_options=options)).folder


@pytest.mark.parametrize("images", ["video", "png"])
def test_lerobot_reads_it(tmp_path: Path, images: str) -> None:
    """Frame i of LeRobotDataset is image i with action i, across the border of two episodes in one file."""
    library = pytest.importorskip("lerobot.datasets.lerobot_dataset", reason="pip install lerobot to check exports")
    folder = export(tmp_path, "lerobot", images=images)
    dataset = library.LeRobotDataset("local/blocks", root=folder, video_backend="pyav")
    asked = np.concatenate(list(ASKED.values()))
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (2, 8, 5)
    tasks = ["open", "open", "close", "close", "close", "push", "push", "push"]
    for i, expected in enumerate([0, 1, 2, 3, 4, 0, 1, 2]):
        item = dataset[i]
        np.testing.assert_array_equal(item["action"].numpy(), asked[i].astype(np.float32))
        for camera, blue in (("primary", 30), ("wrist", 90)):
            rgb = item[f"observation.images.{camera}"].numpy().transpose(1, 2, 0) * 255
            assert rgb.shape == (64, 96, 3)
            assert index_of(rgb) == expected
            assert rgb[..., 1].mean() == pytest.approx(200, abs=6)
            assert rgb[..., 2].mean() == pytest.approx(blue, abs=6)
        assert item["task"] == tasks[i]
        assert item["episode_index"].item() == i // 5
    np.testing.assert_allclose(dataset.meta.stats["action"]["mean"], asked.mean(0))


def test_lerobot_pads_at_the_episode_border(tmp_path: Path) -> None:
    """Action chunks must not run on into the next episode."""
    library = pytest.importorskip("lerobot.datasets.lerobot_dataset", reason="pip install lerobot to check exports")
    folder = export(tmp_path, "lerobot")
    ahead = {"action": [0.0, 0.2, 0.4]}
    dataset = library.LeRobotDataset("local/blocks", root=folder, delta_timestamps=ahead, video_backend="pyav")
    item = dataset[3]
    assert item["action_is_pad"].tolist() == [False, False, True]
    np.testing.assert_array_equal(item["action"].numpy()[:2], ASKED["one"][3:].astype(np.float32))


def test_tfds_reads_it(tmp_path: Path) -> None:
    """As OpenVLA's loader does: by name and folder, without any code of ours; then every step in its place."""
    library = pytest.importorskip("tensorflow_datasets", reason="pip install 'openvla_ros[rlds]' to check RLDS exports")
    folder = export(tmp_path, "rlds")
    by_name = library.builder("blocks", data_dir=str(tmp_path / "out"))
    by_folder = library.builder_from_directory(folder)
    assert by_name.info.splits["train"].num_examples == by_folder.info.splits["train"].num_examples == 2
    for (name, asked), episode in zip(ASKED.items(), by_name.as_dataset(split="train"), strict=True):
        metadata = library.as_numpy(episode["episode_metadata"])
        assert (metadata["episode_id"].decode(), metadata["outcome"].decode()) == (name, EpisodeOutcome.SUCCESS.value)
        assert len(episode["steps"]) == len(asked)
        for i, step in enumerate(library.as_numpy(episode["steps"])):
            np.testing.assert_array_equal(step["action"], asked[i].astype(np.float32))
            assert index_of(step["observation"]["image_primary"]) == i
            assert step["observation"]["image_primary"][..., 2].mean() == pytest.approx(30, abs=6)
            assert step["observation"]["image_wrist"][..., 2].mean() == pytest.approx(90, abs=6)
            assert step["observation"]["proprio"][0] == np.float32(0.3 + i / 100)
            assert (step["is_first"], step["is_last"]) == (i == 0, i == len(asked) - 1)


def test_openvlas_loader_reads_it(tmp_path: Path) -> None:
    """Hazard: actions that are bytes. dlimp, under OpenVLA's and Octo's loaders, skips the decoding of steps."""
    library = pytest.importorskip("tensorflow_datasets", reason="pip install 'openvla_ros[rlds]' to check RLDS exports")
    export(tmp_path, "rlds")
    builder = library.builder("blocks", data_dir=str(tmp_path / "out"))
    split = builder.as_dataset(split="train", decoders={"steps": library.decode.SkipDecoding()})
    for asked, episode in zip(ASKED.values(), split, strict=True):
        np.testing.assert_array_equal(episode["steps"]["action"].numpy(), asked.astype(np.float32))
        assert episode["steps"]["observation"]["proprio"].shape == (len(asked), 8)
        assert episode["steps"]["observation"]["image_primary"][0].numpy()[:2] == b"\xff\xd8"
