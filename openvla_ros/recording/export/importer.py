"""An exported dataset back to episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np

from openvla_ros.errors import RecordingError
from openvla_ros.recording import encode
from openvla_ros.recording.definitions import typestore
from openvla_ros.recording.episode import EpisodeWriter
from openvla_ros.recording.export import FORMATS
from openvla_ros.recording.export.manifest import FILE_NAME, Manifest
from openvla_ros.recording.export.trajectory import EpisodeTrajectory, Picture
from openvla_ros.recording.images import COMPRESSED, compressed_topic
from openvla_ros.types import Action, ArmState, Pose


def import_dataset(
    folder: Path,
    output: Path,
    image_quality: int | None = 95,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """The episodes of a dataset that `export_episodes` made, written below ``output``: their folders.

    image_quality: of JPEG, None for raw images; pictures that are JPEG already are kept as they are. What an episode
    had beside its transitions is not in the dataset: other topics, stamps of each hop, refused actions.
    Raises RecordingError for another dataset, and for an episode that is there already.
    """
    manifest, trajectories = read_dataset(folder)
    written = []
    for trajectory in trajectories:
        progress(trajectory.provenance.episode_id)
        try:
            written.append(_write(trajectory, manifest, output, image_quality))
        except OSError as error:
            raise RecordingError(f"no episode can be written to {output}: {error}") from None
    return written


def read_dataset(folder: Path) -> tuple[Manifest, Iterator[EpisodeTrajectory]]:
    """What a dataset that `export_episodes` made says of itself, and its trajectories in their order.

    Raises RecordingError for another dataset, also while it is read.
    """
    dataset = _dataset(folder)
    manifest = Manifest.load(dataset)
    if manifest.format not in FORMATS:
        raise RecordingError(f"{dataset / FILE_NAME}: there is no format '{manifest.format}'")
    return manifest, import_module(FORMATS[manifest.format]).read(dataset, manifest)


def _dataset(folder: Path) -> Path:
    """The folder with the manifest: of RLDS that of the version, one below the name."""
    if not folder.is_dir():
        raise RecordingError(f"there is no folder {folder}")
    found = sorted(folder.glob(f"*/{FILE_NAME}"))
    return found[-1].parent if found and not (folder / FILE_NAME).is_file() else folder


def _write(trajectory: EpisodeTrajectory, manifest: Manifest, output: Path, image_quality: int | None) -> Path:
    about = trajectory.provenance.model_copy(update={"topics": {}, "interventions": [], "complete": False})
    seconds = 1.0 / manifest.control_hz
    with EpisodeWriter(output, about, image_quality=image_quality) as episode:
        instruction = ""
        for i, pictures in enumerate(trajectory.pictures()):
            stamp = float(trajectory.stamps[i])
            if trajectory.instructions[i] != instruction:
                instruction = trajectory.instructions[i]
                episode.write_message("/instruction", encode.string(instruction), stamp)
            for camera, topic in manifest.cameras.items():
                _write_picture(episode, topic, pictures[camera], stamp)
            state = _arm_state(trajectory, i)
            episode.write_message(
                "/arm_state", encode.arm_state(state, manifest.joint_names, base_frame=manifest.base_frame), stamp
            )
            action = encode.delta_action(
                Action.from_array(trajectory.actions[i]),
                sequence=i + 1,
                image_stamp=stamp,
                stamps=(stamp, stamp, stamp),
                step_seconds=seconds,
                instruction=instruction,
                unnorm_key=str(about.policy.get("unnorm_key", "")),
                base_frame=manifest.base_frame,
                episode_id=about.episode_id,
            )
            episode.write_message("/action", action, stamp)
        # What was judged then still holds; the writer adds what it measured.
        episode.provenance = about
    return episode.folder


def _write_picture(episode: EpisodeWriter, topic: str, picture: Picture, stamp: float) -> None:
    base = topic.removesuffix("/compressed")
    if picture.jpeg is None:
        episode.write_image(base, picture.rgb(), stamp)
        return
    message = typestore().types[COMPRESSED](
        header=encode.header(stamp, "camera"),
        format="rgb8; jpeg compressed bgr8",
        data=np.frombuffer(picture.jpeg, dtype=np.uint8),
    )
    episode.write_message(compressed_topic(base), message, stamp)


def _arm_state(trajectory: EpisodeTrajectory, index: int) -> ArmState:
    """What the dataset holds of it; velocities are not known."""
    values = trajectory.proprio[index]
    joints = trajectory.joints[index]
    unknown = np.full(3, np.nan)
    return ArmState(
        stamp=float(trajectory.stamps[index]),
        pose=Pose(values[:3], values[3:7]),
        linear_velocity=unknown,
        angular_velocity=unknown,
        joint_positions=joints,
        joint_velocities=np.full(len(joints), np.nan),
        gripper=float(values[7]),
    )
