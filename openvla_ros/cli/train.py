"""Fine-tunes an OpenVLA checkpoint of any size on episodes or exported datasets.

All weights or LoRA adapters, on a CPU or a GPU. Settings come from a YAML file, from flags, or both; docs/training.md
lists them. The same command goes on where it was cut off. On several GPUs:
torchrun --nproc-per-node N -m openvla_ros.cli.main train ...
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from openvla_ros.training.job import Job
    from openvla_ros.training.settings import TrainSettings

HELP = "fine-tune a checkpoint on recorded episodes"

_FLAGS = {
    "model": "checkpoint to start from: a folder or hub id",
    "output": "folder of this training",
    "steps": "of the optimizer",
    "batch-size": "examples in one pass on one device",
    "learning-rate": "default: 5e-4 with LoRA, else 2e-5",
    "device": "auto, cpu, cuda, cuda:1, ...",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, nargs="?", help="YAML file of settings")
    parser.add_argument("--data", action="append", metavar="FOLDER", help="episodes or an exported dataset; repeat it")
    for name, about in _FLAGS.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=about)
    parser.add_argument("--lora", action="store_true", help="train adapters: OpenVLA's own fine-tuning")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, such as lora.rank=16; repeat it"
    )


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from openvla_ros.training.loop import train
    from openvla_ros.training.settings import load_settings, parse_change

    changes = {"data": args.data, "lora": {} if args.lora else None}
    changes |= {name.replace("-", "_"): getattr(args, name.replace("-", "_")) for name in _FLAGS}
    changes = {name: value for name, value in changes.items() if value is not None}
    settings = load_settings(args.config, changes | dict(map(parse_change, args.set)))
    console = Console(quiet=os.environ.get("RANK", "0") != "0")  # of several processes, one speaks
    with _Screen(console, settings) as screen:
        folder = train(settings, screen)
    console.print(f"checkpoint: {folder.resolve()}")
    return 0


class _Screen:
    """Implements `openvla_ros.training.loop.TrainingWatcher` for people."""

    def __init__(self, console: Console, settings: TrainSettings) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._settings = settings
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"),
            console=console,
        )
        self._task = self._progress.add_task("reading", total=None, now="")

    def __enter__(self) -> _Screen:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._progress.stop()
        if kind is KeyboardInterrupt:
            self._console.print("stopped: the same command goes on after the checkpoint that was saved last")

    def reading(self, episode: str) -> None:
        self._progress.update(self._task, advance=1, now=episode)

    def begin(self, job: Job, trained: int, step: int, device: torch.device) -> None:
        left_out = ", ".join(f"{reason}: {count}" for reason, count in job.left_out.items())
        self._console.print(
            f"{len(job.examples)} examples of '{job.unnorm_key}', {len(job.held_out)} held out"
            f"{f'; left out: {left_out}' if left_out else ''}\n"
            f"{trained:,} parameters to train on {device}"
            f"{f'; going on after step {step}' if step else ''}: {self._settings.output.resolve()}"
        )
        self._progress.update(self._task, description="training", completed=step, total=self._settings.steps, now="")

    def step(self, step: int, row: dict[str, str] | None) -> None:
        self._progress.update(self._task, completed=step)
        if row is not None:
            now = f"loss {row['loss']}, {float(row['token_accuracy']):.1%} right, {row['samples_per_s']}/s"
            self._progress.update(self._task, now=now)

    def saved(self, folder: Path) -> None:
        self._console.print(f"saved {folder.name}")
