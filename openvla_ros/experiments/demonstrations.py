"""Demonstrations by the scripted expert, as episodes. docs/demonstrations.md describes what comes out."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openvla_ros.errors import ConfigError, RecordingError
from openvla_ros.experiments.lockstep import FULL_SIZE, Lockstep, LockstepConfig
from openvla_ros.experiments.noise import Noise
from openvla_ros.experiments.rollout import Limits, RolloutResult, expert, rollout
from openvla_ros.experiments.workers import each
from openvla_ros.experiments.writing import write_episode
from openvla_ros.recording.episode import Episode, load_provenance
from openvla_ros.recording.export import statistics
from openvla_ros.recording.export.noop import NoopFilter
from openvla_ros.recording.export.trajectory import EpisodeTrajectory, choose_cameras, read_trajectory
from openvla_ros.recording.provenance import EpisodeOutcome
from openvla_ros.sim.tasks import TASKS

FILE_NAME = "demonstrations.json"
FIRST_SCENE = 2**32  # scenes of demonstrations are numbered from here on: those of evaluations lie below


class DemoSettings(BaseModel):
    """What is recorded. Episode i depends on this and i alone, not on how many there are or who records it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field("blocks_demo", pattern=r"^[a-z][a-z0-9_]*$", description="of the dataset: its unnorm_key")
    seed: int = Field(0, ge=0)
    instructions: tuple[str, ...] = Field(tuple(TASKS), min_length=1, description="in turn")
    noisy_share: float = Field(0.6, ge=0, le=1, description="of episodes whose executed actions are disturbed")
    noise: Noise = Field(default_factory=Noise)
    lagged_share: float = Field(0.5, ge=0, le=1, description="of episodes in non-blocking control, with the latency")
    latency: float = Field(0.17, ge=0, le=2, description="of inference in those [s]; others are blocking, without")
    image_size: tuple[int, int] = FULL_SIZE
    image_quality: int = Field(95, ge=1, le=100, description="of JPEG")
    max_steps: int = Field(120, ge=1, description="of an episode that counts as failed after so many")
    robot: str = "wx250s"
    noops: NoopFilter = Field(default_factory=NoopFilter)


@dataclass(frozen=True)
class EpisodePlan:
    """What one episode is to be."""

    index: int
    episode_id: str
    instruction: str
    scene: int
    noisy: bool
    mode: Literal["blocking", "non_blocking"]
    latency: float


@dataclass(frozen=True)
class Demonstration:
    """What became of a plan. outcome: None where the episode was there already. transitions: None where it failed."""

    plan: EpisodePlan
    outcome: RolloutResult | None
    transitions: EpisodeTrajectory | None


class Summary(BaseModel):
    """demonstrations.json: the settings, and what came of them."""

    model_config = ConfigDict(extra="forbid")

    settings: DemoSettings
    episodes: int = Field(0, description="that were tried")
    recorded: int = 0
    failed: list[str] = Field(default_factory=list, description="ids of those that failed, and are not there")
    transitions: int = Field(0, description="without no-ops")
    noops: int = 0
    by_instruction: dict[str, int] = Field(default_factory=dict, description="recorded episodes")
    by_mode: dict[str, int] = Field(default_factory=dict, description="recorded episodes")


def plan(settings: DemoSettings, index: int) -> EpisodePlan:
    """The plan of episode ``index``."""
    rng = _random(settings, index, "plan")
    noisy, lagged = rng.random(2) < (settings.noisy_share, settings.lagged_share)
    return EpisodePlan(
        index=index,
        episode_id=f"demo-{index:06d}",
        instruction=settings.instructions[index % len(settings.instructions)],
        scene=int(rng.integers(FIRST_SCENE, 2**63)),
        noisy=bool(noisy),
        mode="non_blocking" if lagged else "blocking",
        latency=settings.latency if lagged else 0.0,
    )


class Demonstrator:
    """Records one plan after another into a folder. What is there already is kept; what was cut off is done again."""

    def __init__(self, root: Path, settings: DemoSettings) -> None:
        self._root = root
        self._settings = settings
        self._lockstep = Lockstep(LockstepConfig(robot=settings.robot, image_size=settings.image_size))

    def __call__(self, plan: EpisodePlan) -> Demonstration:
        folder = self._root / plan.episode_id
        outcome = None
        if not _is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)
            outcome = self._perform(plan)
            if not outcome.success:
                return Demonstration(plan, outcome, None)
            self._write(plan)
        return Demonstration(plan, outcome, _transitions(folder))

    def _perform(self, plan: EpisodePlan) -> RolloutResult:
        settings = self._settings
        policy = settings.noise.on(expert, _random(settings, plan.index, "noise")) if plan.noisy else expert
        return rollout(
            self._lockstep,
            policy,
            plan.scene,
            plan.instruction,
            labeller=expert,
            mode=plan.mode,
            latency=plan.latency,
            limits=Limits(settings.max_steps),
        )

    def _write(self, plan: EpisodePlan) -> None:
        settings = self._settings
        write_episode(
            self._root,
            plan.episode_id,
            self._lockstep,
            judgement=EpisodeOutcome.SUCCESS,
            unnorm_key=settings.name,
            policy={"name": "scripted expert"},
            scene={
                "name": self._lockstep.config.scene,
                "seed": plan.scene,
                "task": plan.instruction,
                "latency": plan.latency,
                "noise": settings.noise.model_dump() if plan.noisy else None,
            },
            image_quality=settings.image_quality,
        )


def record(
    root: Path,
    settings: DemoSettings,
    episodes: int,
    workers: int = 0,
    progress: Callable[[Demonstration], None] = lambda _: None,
) -> Summary:
    """Record so many episodes below ``root``, with dataset_statistics.json and demonstrations.json beside them.

    workers: processes, 0 for one a core. progress: called with each that is done.
    Raises ConfigError where ``root`` holds demonstrations by other settings, RecordingError where nothing succeeded.
    """
    _claim(root, settings)
    plans = [plan(settings, i) for i in range(episodes)]
    done: list[Demonstration] = []
    for demonstration in each(plans, Demonstrator, root, settings, workers=workers):
        progress(demonstration)
        done.append(demonstration)
    done.sort(key=lambda d: d.plan.index)
    return _finish(root, settings, done)


def _claim(root: Path, settings: DemoSettings) -> None:
    """Note the settings in ``root``, or find that it is of the same."""
    file = root / FILE_NAME
    if not file.is_file():
        if root.exists() and any(root.iterdir()):
            raise ConfigError(f"{root} holds something else than demonstrations: give a new folder")
        root.mkdir(parents=True, exist_ok=True)
        _save(root, Summary(settings=settings))
        return
    try:
        there = Summary.model_validate_json(file.read_text()).settings
    except ValidationError as error:
        raise ConfigError(f"{file} can't be read ({error.error_count()} problems): give a new folder") from error
    before, now = there.model_dump(), settings.model_dump()
    different = [f"{name} was {before[name]!r}, not {now[name]!r}" for name in now if before[name] != now[name]]
    if different:
        raise ConfigError(
            f"{root} was begun with other settings: {'; '.join(different)}. Go on with those, or elsewhere"
        )


def _finish(root: Path, settings: DemoSettings, done: list[Demonstration]) -> Summary:
    recorded = [(d.plan, d.transitions) for d in done if d.transitions is not None]
    kept = [(t, settings.noops.keep(t.actions)) for _, t in recorded]
    trajectories = [t.select(keep) for t, keep in kept if keep.any()]
    if not trajectories:
        raise RecordingError(f"none of {len(done)} episodes succeeded: there is nothing to learn from in {root}")
    control_hz = LockstepConfig().loop.control_hz
    entry = {settings.name: statistics.dataset_statistics(trajectories, control_hz)}
    (root / statistics.FILE_NAME).write_text(json.dumps(entry, indent=2) + "\n")
    summary = Summary(
        settings=settings,
        episodes=len(done),
        recorded=len(recorded),
        failed=[d.plan.episode_id for d in done if d.transitions is None],
        transitions=sum(len(t) for t in trajectories),
        noops=sum(len(keep) - int(keep.sum()) for _, keep in kept),
        by_instruction=dict(Counter(p.instruction for p, _ in recorded)),
        by_mode=dict(Counter(p.mode for p, _ in recorded)),
    )
    _save(root, summary)
    return summary


def _save(root: Path, summary: Summary) -> None:
    draft = root / f"{FILE_NAME}.part"
    draft.write_text(summary.model_dump_json(indent=2) + "\n")
    draft.replace(root / FILE_NAME)


def _random(settings: DemoSettings, index: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([settings.seed, index, *purpose.encode()])


def _is_complete(folder: Path) -> bool:
    try:
        return folder.is_dir() and load_provenance(folder).complete
    except RecordingError:
        return False


def _transitions(folder: Path) -> EpisodeTrajectory:
    """What an episode has to learn from, as a reader finds it; its pictures stay behind."""
    episode = Episode.open(folder)
    trajectory, _ = read_trajectory(episode, choose_cameras(episode, {}), "label")
    return EpisodeTrajectory(
        provenance=trajectory.provenance,
        stamps=trajectory.stamps,
        actions=trajectory.actions,
        proprio=trajectory.proprio,
        joints=trajectory.joints,
        instructions=trajectory.instructions,
        pictures=_no_pictures,
    )


def _no_pictures() -> Iterator[Any]:
    return iter(())
