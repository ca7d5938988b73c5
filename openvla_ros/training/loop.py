"""The training loop. Every step follows from the settings, the data and the weights before it: see `States`."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from openvla_ros.errors import ConfigError, TrainingError
from openvla_ros.policy.openvla.saving import save_like
from openvla_ros.training import augment
from openvla_ros.training.examples import Batch, Examples, Integers
from openvla_ros.training.forward import ActionLogits
from openvla_ros.training.frames import Frames
from openvla_ros.training.job import (
    DTYPES,
    Job,
    check_disk,
    check_memory,
    compute_dtype,
    device_of,
    load_module,
    prepare,
)
from openvla_ros.training.journal import Journal
from openvla_ros.training.lora import merged
from openvla_ros.training.objective import Objective, Scorer, Scores
from openvla_ros.training.settings import TrainSettings, demand_same
from openvla_ros.training.state import States

if TYPE_CHECKING:
    from accelerate import Accelerator

SETTINGS = "settings.json"
_ORDER = 0  # stream of random numbers
_PLOT_SECONDS = 30.0


class TrainingWatcher(Protocol):
    """Who is told how it goes. All methods are called in the main process only."""

    def reading(self, episode: str) -> None: ...

    def begin(self, job: Job, trained: int, step: int, device: torch.device) -> None: ...

    def step(self, step: int, row: dict[str, str] | None) -> None:
        """After each step; row: of train.csv, if there is a new one."""

    def saved(self, folder: Path) -> None: ...


def train(settings: TrainSettings, watcher: TrainingWatcher, frames: Frames | None = None) -> Path:
    """Train until ``settings.steps``, going on where the training in ``settings.output`` was cut off.

    frames: to train on instead of ``settings.data``. Returns the folder of the last checkpoint. Raises OpenVLAError.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device, accelerator = _processes(settings)
    main = accelerator.is_main_process
    if main:
        _claim(settings)
    with accelerator.main_process_first():  # the others find the images in the cache
        job = prepare(settings, frames, watcher.reading if main else lambda _: None)
    check_memory(job, device)
    module = load_module(job, device)
    trainer = Trainer(job, module, device, accelerator)
    if main:
        check_disk(job, trainer.trained)
    trainer.resume()
    if main:
        watcher.begin(job, trainer.trained, trainer.step, device)
    trainer.run(watcher)
    return checkpoint_folder(settings, trainer.step)


def checkpoint_folder(settings: TrainSettings, step: int) -> Path:
    return settings.output / f"step-{step:06d}"


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Of the step with this number, the first being 0."""
    if step < settings.warmup_steps:
        return settings.rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.rate
    share = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.rate * 0.5 * (1 + math.cos(math.pi * share))


def order(seed: int, count: int, numbers: Integers) -> Integers:
    """Which of ``count`` examples are drawn with these numbers: each once in every ``count`` draws, anew shuffled."""
    return np.array([_shuffled(seed, count, int(number // count))[number % count] for number in numbers])


@lru_cache(maxsize=2)
def _shuffled(seed: int, count: int, epoch: int) -> Integers:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(count)


class Trainer:
    """Model, optimizer and how far they have come."""

    def __init__(self, job: Job, module: ActionLogits, device: torch.device, accelerator: Accelerator) -> None:
        self.job, self.settings, self.module, self.step = job, job.settings, module, 0
        self._accelerator, self._device = accelerator, device
        self._dtype = compute_dtype(self.settings, self._device)
        self._objective = Objective(job.tokenizer, self.settings.bin_smoothing, self._device)
        self._scorer = Scorer(job.tokenizer, job.statistics, self._device)
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self.trained = sum(p.numel() for p in self._parameters)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self._parameters if p.ndim > 1], "weight_decay": self.settings.weight_decay},
                {"params": [p for p in self._parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=self.settings.rate,
        )
        self._parallel: Any = module
        if accelerator.num_processes > 1:
            self._parallel = accelerator.prepare_model(module)
        self._norm = torch.zeros(())  # of the last gradient, before clipping
        self._states = States(self.settings.output / "state")

    def resume(self) -> None:
        """Take up the newest state, if there is one. Raises TrainingError where it is damaged."""
        self.step = self._states.latest()
        if self.step:
            self._states.load(self.step, self.module, self._optimizer)

    def run(self, watcher: TrainingWatcher) -> None:
        """Train to the last step."""
        settings, main = self.settings, self._accelerator.is_main_process
        journal = Journal(settings.output, self.step) if main else None
        drawn, seen, began = time.monotonic(), 0, time.perf_counter()
        scores: list[Scores] = []
        while self.step < settings.steps:
            scores.append(self._train_step())
            seen += self._per_step
            self.step += 1
            row = None
            if self._due(settings.log_every) or self._due(settings.checkpoint_every):
                total = _sum(scores)
                self._demand_finite(total)
                if journal is not None:
                    row = journal.add(
                        self.step,
                        "train",
                        total,
                        learning_rate=learning_rate(settings, self.step - 1),
                        gradient_norm=float(self._norm),
                        samples_per_s=seen / (time.perf_counter() - began),
                    )
                scores, seen, began = [], 0, time.perf_counter()
            if journal is not None:
                watcher.step(self.step, row)
                paused = time.perf_counter()
                if len(self.job.held_out) and self._due(settings.evaluate_every):
                    journal.add(self.step, "held_out", self.evaluate(self.job.held_out))
                if self._due(settings.checkpoint_every):
                    self._save(watcher)
                if time.monotonic() - drawn > _PLOT_SECONDS or self.step == settings.steps:
                    journal.draw()
                    drawn = time.monotonic()
                began += time.perf_counter() - paused
        self._accelerator.wait_for_everyone()

    @torch.no_grad()
    def evaluate(self, examples: Examples) -> Scores:
        """Scores of examples as they are."""
        self.module.eval()
        size = self.settings.batch_size
        rows = np.split(np.arange(len(examples)), range(size, len(examples), size))
        out = _sum([self._score(self.module, examples.batch(r, r), augmented=False)[1] for r in rows])
        self.module.train()
        return out

    # ---- one step

    @property
    def _per_step(self) -> int:
        return self.settings.batch_size * self.settings.accumulation * self._accelerator.num_processes

    def _demand_finite(self, scores: Scores) -> None:
        if not math.isfinite(float(scores.loss)):
            raise TrainingError(
                f"the loss is not finite at step {self.step}: lower the learning rate or raise warmup_steps. What was "
                f"saved after step {self._states.latest()} is whole"
            )

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.settings.steps

    def _train_step(self) -> Scores:
        settings, rank = self.settings, self._accelerator.process_index
        self.module.train()
        # Dropout of adapters, the only thing that draws from torch's generators.
        torch.manual_seed(int(np.random.default_rng([settings.seed, self.step, rank]).integers(2**63)))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(settings, self.step)
        scores = []
        for part in range(settings.accumulation):
            first = self.step * self._per_step + (part * self._accelerator.num_processes + rank) * settings.batch_size
            numbers = np.arange(first, first + settings.batch_size)
            batch = self.job.examples.batch(order(settings.seed, len(self.job.examples), numbers), numbers)
            with self._gathering(part == settings.accumulation - 1):
                loss, score = self._score(self._parallel, batch, augmented=True)
                (loss / settings.accumulation).backward()
            scores.append(score)
        self._norm = torch.nn.utils.clip_grad_norm_(self._parameters, settings.clip_gradient)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return _sum(scores)

    def _score(self, module: Any, batch: Batch, *, augmented: bool) -> tuple[Tensor, Scores]:
        images, ids, lengths, targets = (
            torch.from_numpy(array).to(self._device)
            for array in (batch.images, batch.ids, batch.lengths, batch.targets)
        )
        images = self._changed(images, batch.numbers) if augmented else self._as_run(images)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not torch.float32):
            logits = module(images, ids, lengths, targets.shape[1])
        loss = self._objective(logits, targets)
        actions = torch.from_numpy(batch.actions).float().to(self._device)
        return loss, self._scorer(loss, logits, targets, actions)

    def _changed(self, images: Tensor, numbers: Integers) -> Tensor:
        settings = self.settings
        if settings.augmentation is None:
            return self._as_run(images)
        changes = augment.draw(settings.augmentation, settings.seed, numbers).to(self._device)
        return augment.apply(images, changes)

    def _as_run(self, images: Tensor) -> Tensor:
        """Images as the new checkpoint will see them."""
        return augment.crop_middle(images, self._center_crop)

    @property
    def _center_crop(self) -> float:
        augmentation = self.settings.augmentation
        return self.job.processor.image.center_crop if augmentation is None else augmentation.crop_area

    @contextmanager
    def _gathering(self, last: bool) -> Iterator[None]:
        """Gradients travel between processes with the last pass of a step only."""
        if last or self._accelerator.num_processes == 1:
            yield
        else:
            with self._accelerator.no_sync(self._parallel):
                yield

    # ---- saving

    def _save(self, watcher: TrainingWatcher) -> None:
        """The checkpoint, then the state: a kill between the two repeats some steps, and loses nothing."""
        settings, model = self.settings, self.module.model
        dtype = DTYPES[settings.save_dtype]
        folder = checkpoint_folder(settings, self.step)
        shutil.rmtree(folder, ignore_errors=True)
        save_like(
            folder,
            model if settings.lora is None else merged(model, dtype),
            self.job.base,
            {self.job.unnorm_key: self.job.entry},
            dtype=dtype,
            center_crop=self._center_crop,
        )
        self._states.save(self.step, self.module, self._optimizer)
        there = sorted(settings.output.glob("step-*"), key=lambda f: int(f.name.removeprefix("step-")))
        for old in there[: -settings.keep_checkpoints]:
            shutil.rmtree(old)
        watcher.saved(folder)


def _sum(scores: list[Scores]) -> Scores:
    total = scores[0]
    for score in scores[1:]:
        total = total + score
    return total


def _processes(settings: TrainSettings) -> tuple[torch.device, Accelerator]:
    """This process's device, and its connection with the others, if `torchrun` or `accelerate launch` started some."""
    try:
        from accelerate import Accelerator, InitProcessGroupKwargs
    except ImportError as error:
        raise ConfigError(f"training needs accelerate ({error}): pip install 'openvla_ros[train]'") from None
    rank = os.environ.get("LOCAL_RANK")
    device = device_of(settings, None if rank is None else int(rank))
    # Reading the data for the first time can take longer than the usual ten minutes.
    waiting = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    return device, Accelerator(cpu=device.type == "cpu", kwargs_handlers=[waiting])


def _claim(settings: TrainSettings) -> None:
    """Note the settings in the output, or find that it is of the same."""
    file = settings.output / SETTINGS
    if file.is_file():
        demand_same(TrainSettings.model_validate(json.loads(file.read_text())), settings)
    elif settings.output.exists() and any(settings.output.iterdir()):
        raise ConfigError(f"{settings.output} holds something else than a training: give a new folder")
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".part")
        draft.write_text(settings.model_dump_json(indent=2) + "\n")
        draft.replace(file)
    except OSError as error:
        raise TrainingError(f"nothing can be written to {settings.output}: {error.strerror or error}") from error
