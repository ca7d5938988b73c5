"""RLDS: a TFDS dataset of episodes of steps, which OpenVLA's and Octo's loaders read. Needs the extra `rlds`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.errors import RecordingError
from openvla_ros.recording.export.manifest import Manifest
from openvla_ros.recording.export.trajectory import EpisodeTrajectory, Picture, Pictures
from openvla_ros.recording.provenance import EpisodeOutcome

VERSION = "1.0.0"
_DESCRIPTION = (
    "Episodes recorded by openvla_ros. action: x, y, z [m], roll, pitch, yaw [rad] about fixed axes, a delta of the "
    "end effector in the robot's base frame, and an absolute gripper target, 1 = open: what was done on that step's "
    "image. proprio: x, y, z [m], quaternion x, y, z, w, gripper. exact: the same as recorded, in float64, with joint "
    "positions [rad] and when the image was taken [s]."
)


def tfds() -> Any:
    """tensorflow_datasets. Raises RecordingError where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise RecordingError(f"RLDS needs TensorFlow ({error}): pip install 'openvla_ros[rlds]'") from None
    return tensorflow_datasets


def write(root: Path, manifest: Manifest, trajectories: Sequence[EpisodeTrajectory]) -> Path:
    """The dataset's folder, ``root``/name/VERSION, as ``tfds.builder(name, data_dir=root)`` finds it."""
    library = tfds()
    pictures = next(trajectories[0].pictures())
    builder = library.dataset_builders.store_as_tfds_dataset(
        name=manifest.name,
        version=VERSION,
        features=_features(library, {name: p.rgb().shape for name, p in pictures.items()}, len(manifest.joint_names)),
        split_datasets={"train": _examples(trajectories)},
        data_dir=root,
        description=_DESCRIPTION,
        disable_shuffling=True,  # episode i of the manifest is episode i of the split
    )
    return Path(builder.data_dir)


def _features(library: Any, shapes: dict[str, tuple[int, ...]], joints: int) -> Any:
    f = library.features
    images = {f"image_{name}": f.Image(shape=shape, encoding_format="jpeg") for name, shape in shapes.items()}

    def exact(*shape: int) -> Any:
        return f.Tensor(shape=shape, dtype=np.float64, encoding="bytes")

    return f.FeaturesDict(
        {
            "steps": f.Dataset(
                {
                    "observation": {**images, "proprio": f.Tensor(shape=(8,), dtype=np.float32)},
                    "action": f.Tensor(shape=(7,), dtype=np.float32),
                    "language_instruction": f.Text(),
                    "is_first": f.Scalar(dtype=np.bool_),
                    "is_last": f.Scalar(dtype=np.bool_),
                    "is_terminal": f.Scalar(dtype=np.bool_),
                    "reward": f.Scalar(dtype=np.float32),
                    "discount": f.Scalar(dtype=np.float32),
                    # As recorded, to the last bit. Not above: TFDS stores float64 as float32 unless as bytes, and
                    # loaders that skip decoding, OpenVLA's among them, do not get at those.
                    "exact": {
                        "action": exact(7),
                        "proprio": exact(8),
                        "joint_positions": exact(joints),
                        "stamp": exact(),
                    },
                }
            ),
            "episode_metadata": {"episode_id": f.Text(), "robot": f.Text(), "outcome": f.Text()},
        }
    )


def _examples(trajectories: Sequence[EpisodeTrajectory]) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, trajectory in enumerate(trajectories):
        yield index, example(trajectory)


def example(trajectory: EpisodeTrajectory) -> dict[str, Any]:
    """One episode as RLDS lays it out.

    The last step is terminal where the episode was judged, success or failure; an aborted one was only cut off.
    reward: 1 on the last step of a success, else 0.
    """
    about, last = trajectory.provenance, len(trajectory) - 1
    judged = about.outcome in (EpisodeOutcome.SUCCESS, EpisodeOutcome.FAILURE)
    steps = [
        {
            "observation": {
                **{f"image_{name}": picture.to_jpeg() for name, picture in pictures.items()},
                "proprio": trajectory.proprio[i].astype(np.float32),
            },
            "action": trajectory.actions[i].astype(np.float32),
            "language_instruction": trajectory.instructions[i],
            "is_first": i == 0,
            "is_last": i == last,
            "is_terminal": i == last and judged,
            "reward": np.float32(i == last and about.outcome is EpisodeOutcome.SUCCESS),
            "discount": np.float32(1.0),
            "exact": {
                "action": trajectory.actions[i],
                "proprio": trajectory.proprio[i],
                "joint_positions": trajectory.joints[i],
                "stamp": trajectory.stamps[i],
            },
        }
        for i, pictures in enumerate(trajectory.pictures())
    ]
    metadata = {"episode_id": about.episode_id, "robot": about.robot, "outcome": about.outcome.value}
    return {"steps": steps, "episode_metadata": metadata}


def read(folder: Path, manifest: Manifest) -> Iterator[EpisodeTrajectory]:
    """The trajectories of a dataset that `write` made. Raises RecordingError where it was changed since."""
    library = tfds()
    images = {f"image_{name}": name for name in manifest.cameras}
    builder = library.builder_from_directory(folder)
    # The images as they are, so that they go back into a bag without another loss.
    skip = {"steps": {"observation": {name: library.decode.SkipDecoding() for name in images}}}
    config = library.ReadConfig(interleave_cycle_length=1, try_autocache=False)  # keeps the order
    split = builder.as_dataset(split="train", decoders=skip, read_config=config)
    found = 0
    for index, record in enumerate(split):
        steps = list(library.as_numpy(record["steps"]))
        if index >= len(manifest.episodes) or len(steps) != manifest.episodes[index].transitions:
            break
        found += 1
        yield _trajectory(manifest, index, steps, images)
    if found != len(manifest.episodes):
        raise RecordingError(f"{folder} was changed after the export: its episodes are no longer those of its manifest")


def _trajectory(
    manifest: Manifest, index: int, steps: list[dict[str, Any]], images: dict[str, str]
) -> EpisodeTrajectory:
    def pictures() -> Iterator[Pictures]:
        for step in steps:
            yield {name: Picture(jpeg=step["observation"][key]) for key, name in images.items()}

    exact = [step["exact"] for step in steps]
    return EpisodeTrajectory(
        provenance=manifest.provenance(index),
        stamps=np.array([e["stamp"] for e in exact]),
        actions=np.array([e["action"] for e in exact]),
        proprio=np.array([e["proprio"] for e in exact]),
        joints=np.array([e["joint_positions"] for e in exact]),
        instructions=[step["language_instruction"].decode() for step in steps],
        pictures=pictures,
    )
