"""Episodes and exported datasets as plain arrays. Images are resized once, into a file that is mapped to memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import TrainingError
from openvla_ros.images import RGB, ImageError
from openvla_ros.recording.episode import Episode, find_episodes
from openvla_ros.recording.export.importer import read_dataset
from openvla_ros.recording.export.manifest import FILE_NAME as MANIFEST
from openvla_ros.recording.export.trajectory import PRIMARY, EpisodeTrajectory, Source, choose_cameras, read_trajectory
from openvla_ros.training.settings import TrainSettings
from openvla_ros.types import Array

_IMAGES, _ARRAYS, _ABOUT = "images.u8", "arrays.npz", "about.json"


@dataclass(frozen=True)
class Frames:
    """n transitions of many episodes, in order. Row i of everything belongs to image i.

    images: (n, size, size, 3) uint8 as the model's towers see them; any array, a memory map for one. actions: (n, 7)
    in m and rad, gripper 1 = open. proprio: (n, 8). instruction, episode: (n,) index into instructions and episodes,
    which are sentences, and ids behind the name of their folder. left_out: steps that are not here, by reason.
    """

    images: NDArray[np.uint8]
    actions: Array
    proprio: Array
    instruction: NDArray[np.int64]
    episode: NDArray[np.int64]
    instructions: list[str]
    episodes: list[str]
    control_hz: float
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.actions)


def read_frames(
    settings: TrainSettings, resized: Callable[[RGB], RGB], progress: Callable[[str], None] = lambda _: None
) -> Frames:
    """The transitions of ``settings.data``, from the cache where they were read before.

    resized: a camera image to (size, size, 3). progress: called with each episode that is read. Raises TrainingError
    and RecordingError for data that can't be trained on.
    """
    probe = resized(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    folder = (settings.cache or settings.output / "cache") / _key(settings, probe)
    if not (folder / _ABOUT).is_file():
        _build(folder, settings, resized, len(probe), progress)
    return _open(folder, len(probe))


def _key(settings: TrainSettings, probe: RGB) -> str:
    """A name for these data as they are on disk now, resized like ``probe``: what has changed since is read again."""
    _check_roots([root.resolve() for root in settings.data])
    digest = hashlib.sha256()
    reading = settings.model_dump(mode="json", include={"actions", "outcomes", "camera", "noops"})
    digest.update(json.dumps([reading, probe.shape]).encode() + probe.tobytes())
    for root in settings.data:
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            stat = path.stat()
            digest.update(f"{root.resolve()} {path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _check_roots(roots: Sequence[Path]) -> None:
    for i, root in enumerate(roots):
        if not root.is_dir():
            raise TrainingError(f"there is no folder {root}: data must name folders of episodes or exported datasets")
        for other in roots[:i]:
            if root == other or root in other.parents or other in root.parents:
                raise TrainingError(f"{root} and {other} hold the same episodes: name one of them in data")


def _build(
    folder: Path, settings: TrainSettings, resized: Callable[[RGB], RGB], size: int, progress: Callable[[str], None]
) -> None:
    staging = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        _write(staging, settings, resized, size, progress)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(staging, folder)
    except OSError as error:
        raise TrainingError(
            f"the resized images can't be written to {folder.parent}: {error}. Each takes "
            f"{3 * size * size / 1e3:.0f} kB; give a larger disk with cache"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write(
    folder: Path, settings: TrainSettings, resized: Callable[[RGB], RGB], size: int, progress: Callable[[str], None]
) -> None:
    trajectories: list[EpisodeTrajectory] = []
    left_out: Counter[str] = Counter()
    instructions: dict[str, int] = {}
    rates: dict[float, str] = {}
    with (folder / _IMAGES).open("wb") as file:
        for trajectory in _trajectories(settings, left_out):
            name = trajectory.provenance.episode_id
            progress(name)
            for i, pictures in enumerate(trajectory.pictures()):
                try:
                    image = resized(next(iter(pictures.values())).rgb())
                except ImageError as error:
                    raise TrainingError(f"image {i} of episode {name} can't be read: {error}") from error
                assert image.shape == (size, size, 3)
                file.write(np.ascontiguousarray(image).data)
            hz = trajectory.provenance.control.control_hz
            if hz is not None:
                rates.setdefault(hz, name)
            for text in trajectory.instructions:
                instructions.setdefault(text, len(instructions))
            trajectories.append(replace(trajectory, pictures=lambda: iter(())))  # which may hold the JPEGs
    _check(settings, trajectories, left_out, rates, instructions)
    lengths = [len(t) for t in trajectories]
    np.savez(
        folder / _ARRAYS,
        actions=np.concatenate([t.actions for t in trajectories]),
        proprio=np.concatenate([t.proprio for t in trajectories]),
        instruction=np.array([instructions[text] for t in trajectories for text in t.instructions], dtype=np.int64),
        episode=np.repeat(np.arange(len(trajectories)), lengths),
    )
    about = {
        "instructions": list(instructions),
        "episodes": [t.provenance.episode_id for t in trajectories],
        "control_hz": next(iter(rates)),
        "left_out": dict(+left_out),
    }
    (folder / _ABOUT).write_text(json.dumps(about, indent=2) + "\n")


def _check(
    settings: TrainSettings,
    trajectories: Sequence[EpisodeTrajectory],
    left_out: Counter[str],
    rates: dict[float, str],
    instructions: dict[str, int],
) -> None:
    places = ", ".join(map(str, settings.data))
    if not trajectories:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in (+left_out).items())
        raise TrainingError(f"there is nothing to learn from in {places} (left out: {reasons or 'no episodes there'})")
    if len(rates) > 1:
        (first, a), (second, b) = list(rates.items())[:2]
        raise TrainingError(f"control rates differ: {first:g} Hz in episode {a}, {second:g} Hz in {b}; train on one")
    if not rates:
        raise TrainingError(f"no episode in {places} says its control rate: the policy could not say its own")
    if any(not text.strip() for text in instructions):
        raise TrainingError(f"some steps in {places} have no instruction: there is nothing to tell the policy")


def _trajectories(settings: TrainSettings, left_out: Counter[str]) -> Iterator[EpisodeTrajectory]:
    """What can be learned from, one camera each."""
    names: set[str] = set()
    for root in settings.data:
        exported = next(root.rglob(MANIFEST), None) is not None
        for trajectory in _exported(root, settings, left_out) if exported else _recorded(root, settings, left_out):
            # Recordings number their episodes anew: with the folder's name, they can be told apart.
            name = f"{root.resolve().name}/{trajectory.provenance.episode_id}"
            if name in names:
                raise TrainingError(f"there are two episodes {name} in the data: give one folder another name")
            names.add(name)
            trajectory.provenance.episode_id = name
            if settings.noops is not None:
                keep = settings.noops.keep(trajectory.actions)
                left_out["no-op"] += len(keep) - int(keep.sum())
                trajectory = trajectory.select(keep)
            if len(trajectory):
                yield trajectory


def _recorded(root: Path, settings: TrainSettings, left_out: Counter[str]) -> Iterator[EpisodeTrajectory]:
    for folder in find_episodes(root):
        episode = Episode.open(folder)
        if settings.outcomes and episode.provenance.outcome not in settings.outcomes:
            left_out[f"episodes with outcome {episode.provenance.outcome.value}"] += 1
            continue
        cameras = {PRIMARY: choose_cameras(episode, {})[PRIMARY]}
        if (
            settings.camera
        ):  # beside the one that the policy looked at, whose stamps say when an action's image was taken
            asked = choose_cameras(episode, {PRIMARY: settings.camera})
            cameras[settings.camera] = asked[PRIMARY]
        trajectory, missing = read_trajectory(episode, cameras, _source(settings, episode))
        left_out.update(missing)
        yield _with_camera(trajectory, settings.camera or PRIMARY)


def _source(settings: TrainSettings, episode: Episode) -> Source:
    if settings.actions != "auto":
        return settings.actions
    return "label" if any(step.label for step in episode.trace.steps.values()) else "accepted"


def _exported(root: Path, settings: TrainSettings, left_out: Counter[str]) -> Iterator[EpisodeTrajectory]:
    manifest, trajectories = read_dataset(root)
    if settings.actions not in ("auto", manifest.source):
        raise TrainingError(f"{root} was exported with {manifest.source} actions, actions asks for {settings.actions}")
    camera = settings.camera or next(iter(manifest.cameras))
    if camera not in manifest.cameras:
        raise TrainingError(f"there is no camera '{camera}' in {root}; it has {', '.join(manifest.cameras)}")
    for trajectory in trajectories:
        outcome = trajectory.provenance.outcome
        if settings.outcomes and outcome not in settings.outcomes:
            left_out[f"episodes with outcome {outcome.value}"] += 1
            continue
        trajectory.provenance.control.control_hz = manifest.control_hz
        yield _with_camera(trajectory, camera)


def _with_camera(trajectory: EpisodeTrajectory, camera: str) -> EpisodeTrajectory:
    pictures = trajectory.pictures
    return replace(trajectory, pictures=lambda: ({camera: p[camera]} for p in pictures()))


def _open(folder: Path, size: int) -> Frames:
    about: dict[str, Any] = json.loads((folder / _ABOUT).read_text())
    with np.load(folder / _ARRAYS) as arrays:
        columns = dict(arrays)
    shape = (len(columns["actions"]), size, size, 3)
    images = np.memmap(folder / _IMAGES, dtype=np.uint8, mode="r", shape=shape)
    return Frames(images=images, **columns, **about)
