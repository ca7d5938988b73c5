"""Frames to learn from, made by several processes: arranged moments, and episodes with the expert as labeller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.experiments.demonstrations import FIRST_SCENE
from openvla_ros.experiments.evaluation import PolicySettings, acting, load
from openvla_ros.experiments.lockstep import FULL_SIZE, Lockstep, LockstepConfig, Observation, PolicyFunction
from openvla_ros.experiments.rollout import Limits, expert, rollout
from openvla_ros.experiments.workers import each
from openvla_ros.policy.checkpoint import read_json
from openvla_ros.policy.openvla.processor import ImageProcessor
from openvla_ros.robots.description import load_robot
from openvla_ros.sim.camera import Camera
from openvla_ros.sim.world import World
from openvla_ros.training.blocks.arrangements import Arranger
from openvla_ros.training.blocks.settings import BlocksSettings
from openvla_ros.training.blocks.store import Shard, is_complete
from openvla_ros.types import Action

ROBOT, SCENE = "wx250s", "blocks"
MAX_STEPS = 80  # of an episode; who needs more is lost, and teaches little


@dataclass(frozen=True)
class ShardJob:
    """A shard to make. checkpoint: who acts in episodes, beside the expert; arranged: no episodes at all."""

    folder: Path
    count: int
    seed: tuple[int, ...]
    arranged: bool = False
    checkpoint: Path | None = None
    expert_share: float = 1.0


def jobs(settings: BlocksSettings, folder: Path, frames: int, source: int, **more: Any) -> list[ShardJob]:
    """Shards of so many frames in all, below a folder. source: number of what they are, for seeds that differ."""
    size = settings.frames_per_job
    counts = [min(size, frames - begin) for begin in range(0, frames, size)]
    return [ShardJob(folder / f"{i:04d}", count, (settings.seed, source, i), **more) for i, count in enumerate(counts)]


def make(
    settings: BlocksSettings, base: Path, todo: list[ShardJob], progress: Callable[[int], None] = lambda _: None
) -> list[Path]:
    """Make the shards that are not there yet; all their folders. base: a checkpoint, for how it sees images.

    progress: called with the frames of each shard that is done.
    """
    missing = [job for job in todo if not is_complete(job.folder)]
    progress(sum(job.count for job in todo) - sum(job.count for job in missing))
    for count in each(missing, Maker, settings, base, workers=settings.workers):
        progress(count)
    return [job.folder for job in todo]


class Maker:
    """Makes one shard after another."""

    def __init__(self, settings: BlocksSettings, base: Path) -> None:
        self._settings = settings
        self._images = ImageProcessor(read_json(base / "preprocessor_config.json"))
        self._lockstep: Lockstep | None = None

    def __call__(self, job: ShardJob) -> int:
        shard = Shard(job.folder, job.count, self._settings.instructions, self._images)
        about = asdict(job) | {"folder": job.folder.name, "checkpoint": job.checkpoint and job.checkpoint.name}
        rng = np.random.default_rng(job.seed)
        about |= self._arrange(shard, rng) if job.arranged else self._act(shard, rng, job)
        shard.close(about)
        return job.count

    def _arrange(self, shard: Shard, rng: np.random.Generator) -> dict[str, Any]:
        world = World(SCENE, load_robot(ROBOT))
        width, height = self._settings.render_size
        aspect = FULL_SIZE[0] / FULL_SIZE[1]
        oversample = 1 if (width, height) == FULL_SIZE else 2
        with Camera(world, width=width, height=height, aspect=aspect, oversample=oversample) as camera:
            arrange = Arranger(world, rng)
            while not shard.full:
                view = arrange()
                shard.add(camera.render(), view)
        return {}

    def _act(self, shard: Shard, rng: np.random.Generator, job: ShardJob) -> dict[str, Any]:
        settings = self._settings
        if self._lockstep is None:
            self._lockstep = Lockstep(LockstepConfig(robot=ROBOT, scene=SCENE, image_size=settings.render_size))
        lockstep = self._lockstep
        model = None
        if job.checkpoint is not None:
            chosen = PolicySettings(checkpoint=str(job.checkpoint), device="cpu", precision="float32")
            model = acting(load(chosen, lockstep))
        episodes = successes = 0
        while not shard.full:
            lagged = rng.random() < settings.lagged_share
            outcome = rollout(
                lockstep,
                _collecting(shard, _mixed(model, job.expert_share, settings, rng)),
                int(rng.integers(FIRST_SCENE, 2**62)),
                str(rng.choice(settings.instructions)),
                mode="non_blocking" if lagged else "blocking",
                latency=settings.latency if lagged else 0.0,
                limits=Limits(max_steps=MAX_STEPS),
            )
            episodes, successes = episodes + 1, successes + bool(outcome.success)
        return {"episodes": episodes, "successes": successes}


def _collecting(shard: Shard, policy: PolicyFunction) -> PolicyFunction:
    """A policy of which every observation is kept, until the shard is full."""

    def act(observation: Observation) -> Action:
        if not shard.full:
            shard.add(observation.image, observation.view)
        return policy(observation)

    return act


def _mixed(
    model: PolicyFunction | None, share: float, settings: BlocksSettings, rng: np.random.Generator
) -> PolicyFunction:
    """The model and the expert in turn at random; three episodes of four are disturbed."""

    def act(observation: Observation) -> Action:
        if model is None or rng.random() < share:
            return expert(observation)
        return model(observation)

    return settings.noise.on(act, rng) if rng.random() < 0.75 else act
