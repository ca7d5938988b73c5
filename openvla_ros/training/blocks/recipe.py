"""From nothing to a checkpoint: frames, towers, policy, DAgger rounds. What is done already is not done again.

OUTPUT/settings.json    what it was begun with
OUTPUT/new/             the checkpoint with random weights
OUTPUT/frames/          of each source
OUTPUT/states/          of each training, to go on from; its log beside it
OUTPUT/policy-N/        the policy after round N, in the official layout; the last one is the result
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from openvla_ros.errors import ConfigError
from openvla_ros.experiments.lockstep import LockstepConfig
from openvla_ros.policy.checkpoint import read_json
from openvla_ros.policy.openvla.config import parse_config
from openvla_ros.policy.openvla.creation import create_checkpoint
from openvla_ros.policy.openvla.engine import find_device
from openvla_ros.policy.openvla.loading import load_model
from openvla_ros.policy.openvla.precision import scheme_for
from openvla_ros.policy.openvla.processor import Processor
from openvla_ros.policy.openvla.saving import save_like
from openvla_ros.policy.openvla.statistics import ActionStatistics
from openvla_ros.recording.export.statistics import statistics_entry
from openvla_ros.robots.description import load_robot
from openvla_ros.sim.world import World
from openvla_ros.training.blocks.generate import ROBOT, SCENE, jobs, make
from openvla_ros.training.blocks.optimizer import Optimizer
from openvla_ros.training.blocks.settings import CHANGEABLE, BlocksSettings, StageSettings
from openvla_ros.training.blocks.stages import Data, Learner, LogRow, PolicyStage, Towers, quick_attention
from openvla_ros.training.blocks.store import ShardFrames

SLOW = ("model.vision_backbone.", "heads.")  # what the first stage has trained already
_MEASURED = 100  # frames in one pass


class RecipeWatcher(Protocol):
    """Is told how it goes."""

    def begin(self, what: str, total: int) -> None: ...

    def advance(self, count: int, row: LogRow | None = None) -> None: ...


def build(settings: BlocksSettings, output: Path, watcher: RecipeWatcher) -> Path:
    """The folder of the finished checkpoint. Raises ConfigError where ``output`` was begun with other settings."""
    _claim(settings, output)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return _Recipe(settings, output, watcher).run()


class _Recipe:
    def __init__(self, settings: BlocksSettings, output: Path, watcher: RecipeWatcher) -> None:
        self._settings, self._output, self._watcher = settings, output, watcher
        self._device = find_device(settings.device)
        self._dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self._base = output / "new"
        self._sources: list[list[Path]] = []
        self._world = World(SCENE, load_robot(ROBOT))

    def run(self) -> Path:
        settings = self._settings
        if not self._base.is_dir():
            create_checkpoint(self._base, settings.sizes.model(), settings.instructions, {}, seed=settings.seed)
        self._frames("arranged", settings.arranged_frames, arranged=True)
        if settings.expert_frames:
            self._frames("expert", settings.expert_frames)
        frames = ShardFrames.open(self._sources)
        # Of the first frames, and so the same in all rounds: what a token means must not change.
        entry = statistics_entry(
            frames.actions.reshape(-1, frames.actions.shape[-1]),
            frames.proprio,
            len(frames),
            LockstepConfig().loop.control_hz,
        )
        learner, processor = self._learner()
        data = Data.of(frames, self._world)
        towers = Towers(learner, processor, data, self._dtype)
        self._train("towers", settings.towers, learner, towers, 0.0)
        statistics = ActionStatistics.from_entry(settings.name, entry)
        done = self._policy(0, settings.policy, 0.0, learner, processor, data, statistics, entry)
        for number, round_ in enumerate(settings.rounds, 1):
            self._frames(f"round-{number}", round_.frames, checkpoint=done, expert_share=round_.expert_share)
            more = Data.of(ShardFrames.open(self._sources), self._world, before=data)
            share = round_.recent_share
            done = self._policy(number, round_.training, share, learner, processor, more, statistics, entry)
        return done

    def _frames(self, name: str, count: int, **more: Any) -> None:
        todo = jobs(self._settings, self._output / "frames" / name, count, len(self._sources), **more)
        self._watcher.begin(f"frames: {name}", count)
        self._sources.append(make(self._settings, self._base, todo, self._watcher.advance))

    def _learner(self) -> tuple[Learner, Processor]:
        config = parse_config(read_json(self._base / "config.json"))
        torch.manual_seed(self._settings.seed)
        model = load_model(self._base, config, self._device, scheme_for("float32", self._device))
        model.requires_grad_(True)
        return Learner(model).to(self._device), Processor(self._base, config)

    def _policy(
        self,
        number: int,
        stage: StageSettings,
        recent_share: float,
        learner: Learner,
        processor: Processor,
        data: Data,
        statistics: ActionStatistics,
        entry: dict[str, Any],
    ) -> Path:
        folder = self._output / f"policy-{number}"
        policy = PolicyStage(learner, processor, data, self._dtype, self._settings, statistics)
        self._train(folder.name, stage, learner, policy, recent_share)
        if not folder.is_dir():
            norm_stats = {self._settings.name: entry}
            save_like(folder, learner.model, self._base, norm_stats, dtype=torch.bfloat16)
        return folder

    def _train(self, name: str, stage: StageSettings, learner: Learner, task: Towers, recent_share: float) -> None:
        """Train and leave the averaged weights in ``learner``, float32."""
        states = self._output / "states"
        states.mkdir(exist_ok=True)
        file = states / f"{name}.pt"
        self._watcher.begin(name, stage.steps)
        saved = torch.load(file, map_location=self._device, weights_only=True) if file.is_file() else None
        if saved is None and name in ("towers", "policy-0"):
            torch.manual_seed(self._settings.seed)  # not what was drawn before, which a second run leaves out
            task.begin(np.random.default_rng(self._settings.seed))
        slow = () if name == "towers" else SLOW
        optimizer = Optimizer(learner, self._dtype, slow, self._settings.tower_rate)
        log = _Log(states / f"{name}.csv", 0 if saved is None else saved["steps"])
        if saved is not None:
            optimizer.restore(saved)
        self._watcher.advance(optimizer.steps)
        while optimizer.steps < stage.steps:
            step = optimizer.steps
            rng = np.random.default_rng([self._settings.seed, *name.encode(), step])
            share = min(1.0, (step + 1) / (stage.warmup + 1), (stage.steps - step) / (stage.decay * stage.steps))
            with quick_attention(self._device):
                loss = task(task.data.draw(rng, stage.batch_size, recent_share))
                optimizer.step(loss, stage.rate * share, stage.matrix_rate * share)
            row = None
            if optimizer.steps % stage.measure_every == 0 or optimizer.steps == stage.steps:
                row = {"step": optimizer.steps, "loss": loss.item(), **_measure(task)}
                _save(optimizer.state(), file)
                log.add(row)
            self._watcher.advance(1, row)
        learner.float()
        learner.load_state_dict(optimizer.averaged())


@torch.no_grad()
def _measure(task: Towers) -> LogRow:
    """Means over the frames that are held out."""
    held = task.data.held_out
    parts = [held[i : i + _MEASURED] for i in range(0, len(held), _MEASURED)]
    rows = [task.measure(part) for part in parts]
    weights = [len(part) for part in parts]
    return {name: float(np.average([row[name] for row in rows], weights=weights)) for name in rows[0]}


def _save(state: dict[str, Any], file: Path) -> None:
    draft = file.with_suffix(".part")
    torch.save(state, draft)
    os.replace(draft, file)


class _Log:
    """A CSV of measurements; rows after the step that a training goes on from are made again."""

    def __init__(self, file: Path, step: int) -> None:
        self._file = file
        rows: list[LogRow] = []
        if step and file.is_file():
            with file.open(newline="") as stream:
                rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
        self._rows = [row for row in rows if row["step"] <= step]

    def add(self, row: LogRow) -> None:
        self._rows.append(row)
        with self._file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(row))
            writer.writeheader()
            writer.writerows(self._rows)


def _claim(settings: BlocksSettings, output: Path) -> None:
    """Note the settings, or find that they are those it was begun with."""
    file = output / "settings.json"
    now = settings.model_dump(mode="json", exclude=set(CHANGEABLE))
    if file.is_file():
        before = json.loads(file.read_text())
        different = [name for name in now if before.get(name) != now[name]]
        if different:
            raise ConfigError(f"{output} was begun with other settings ({', '.join(different)}): give a new folder")
        return
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} holds something else: give a new folder")
    output.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(now, indent=2) + "\n")
