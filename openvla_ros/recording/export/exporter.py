"""Episodes to a dataset: which steps, checked to be of one kind, written by one of the formats."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from openvla_ros.errors import RecordingError
from openvla_ros.recording.episode import Episode, find_episodes
from openvla_ros.recording.export import FORMATS, statistics
from openvla_ros.recording.export.manifest import ExportedEpisode, Manifest
from openvla_ros.recording.export.noop import NoopFilter
from openvla_ros.recording.export.trajectory import (
    EpisodeTrajectory,
    Source,
    arm_facts,
    choose_cameras,
    read_trajectory,
)
from openvla_ros.recording.provenance import EpisodeOutcome

_NAME = re.compile(r"[a-z][a-z0-9_]*")  # what TFDS takes

T = TypeVar("T")


@dataclass(frozen=True)
class ExportOptions:
    """cameras: {name: topic}, empty for the usual ones; outcomes: of the episodes that are wanted, empty for all;
    control_hz: None for what the episodes say; noops: thresholds by which no-ops are left out, None to keep them."""

    format: str
    name: str
    source: Source = "accepted"
    cameras: Mapping[str, str] | None = None
    outcomes: Collection[EpisodeOutcome] = ()
    control_hz: float | None = None
    noops: NoopFilter | None = None
    format_options: Mapping[str, Any] | None = None  # of the format's write()


@dataclass(frozen=True)
class Exported:
    """``folder``: of the dataset. ``skipped``: episodes that are not in it, with the reason."""

    folder: Path
    manifest: Manifest
    skipped: dict[str, str]


def episodes_at(paths: Sequence[Path]) -> list[Path]:
    """Episode folders at or below the paths, each once, in order. Raises RecordingError where there is none."""
    found = list(dict.fromkeys(folder for path in paths for folder in find_episodes(path)))
    if not found:
        raise RecordingError(f"there are no episodes in {', '.join(map(str, paths))}")
    return found


def export_episodes(
    folders: Sequence[Path], output: Path, options: ExportOptions, progress: Callable[[Path], None] = lambda _: None
) -> Exported:
    """Write a dataset to ``output``/name. All of it is there or nothing. progress: called before each episode is read.

    Raises RecordingError for a name that is taken, episodes that differ in robot, camera or rate, and where no
    transition is left.
    """
    if options.format not in FORMATS:
        raise RecordingError(f"there is no format '{options.format}'; there are {', '.join(FORMATS)}")
    if not _NAME.fullmatch(options.name):
        raise RecordingError(f"a dataset can't be named '{options.name}': use small letters, digits and '_'")
    if options.control_hz is not None and not 0 < options.control_hz < math.inf:
        raise RecordingError(f"a control rate of {options.control_hz:g} Hz makes no sense: give one above 0")
    target = output / options.name
    if target.exists():
        raise RecordingError(f"{target} exists already: choose another name or remove it")
    manifest, trajectories, skipped = _collect(folders, options, progress)
    staging = output / f".{options.name}.part"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        write = import_module(FORMATS[options.format]).write
        dataset: Path = write(staging, manifest, trajectories, **(options.format_options or {}))
        entry = {options.name: statistics.dataset_statistics(trajectories, manifest.control_hz)}
        (dataset / statistics.FILE_NAME).write_text(json.dumps(entry, indent=2) + "\n")
        manifest.save(dataset)
        (staging / options.name).rename(target)
    except OSError as error:
        raise RecordingError(f"the dataset can't be written to {output}: {error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Exported(target / dataset.relative_to(staging / options.name), manifest, skipped)


def _collect(
    folders: Sequence[Path], options: ExportOptions, progress: Callable[[Path], None]
) -> tuple[Manifest, list[EpisodeTrajectory], dict[str, str]]:
    """What goes into the dataset. Images are not read yet."""
    trajectories: list[EpisodeTrajectory] = []
    skipped: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    facts: dict[str, tuple[Path, Any]] = {}
    for folder in folders:
        progress(folder)
        episode = Episode.open(folder)
        outcome = episode.provenance.outcome
        if options.outcomes and outcome not in options.outcomes:
            skipped[folder.name] = f"outcome {outcome.value}"
            continue
        cameras = choose_cameras(episode, options.cameras or {})
        trajectory, missing = read_trajectory(episode, cameras, options.source)
        left_out += missing
        if options.noops is not None:
            keep = options.noops.keep(trajectory.actions)
            left_out["no-op"] += len(keep) - int(keep.sum())
            trajectory = trajectory.select(keep)
        if not len(trajectory):
            skipped[folder.name] = "no transition is left"
            continue
        base_frame, joint_names = arm_facts(episode)
        same = {
            "robot": episode.provenance.robot,
            "base frame": base_frame,
            "joints": joint_names,
            "cameras": cameras,
            "image sizes": {name: picture.rgb().shape for name, picture in next(trajectory.pictures()).items()},
            "control_hz": episode.provenance.control.control_hz if options.control_hz is None else options.control_hz,
        }
        for name, value in same.items():
            _demand_same(facts, name, value, folder)
        trajectories.append(trajectory)
    if not trajectories:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise RecordingError(f"nothing is left to export ({reasons or 'no episodes'}); {dict(+left_out) or ''}")
    control_hz = facts["control_hz"][1]
    if control_hz is None:
        raise RecordingError("the episodes do not say their control rate: give it with --control-hz")
    manifest = Manifest(
        format=options.format,
        name=options.name,
        control_hz=control_hz,
        source=options.source,
        cameras=facts["cameras"][1],
        base_frame=facts["base frame"][1],
        joint_names=facts["joints"][1],
        noops=options.noops,
        left_out=dict(+left_out),
        episodes=[
            ExportedEpisode(transitions=len(t), provenance=t.provenance.model_dump(mode="json")) for t in trajectories
        ],
    )
    return manifest, trajectories, skipped


def _demand_same(facts: dict[str, tuple[Path, Any]], name: str, value: Any, folder: Path) -> None:
    """A dataset is of one kind: actions of two robots, or two image sizes, are not to be told apart in it."""
    first, known = facts.setdefault(name, (folder, value))
    if known != value:
        raise RecordingError(
            f"the episodes are not of one kind: {name} is {known} in {first} but {value} in {folder}; export them "
            f"separately"
        )
