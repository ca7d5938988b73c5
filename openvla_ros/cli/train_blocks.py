"""Builds the demo policy of the simulated blocks scene from nothing: frames, towers, policy, DAgger rounds.

The same command goes on where it was cut off. docs/demo-policy.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "build the demo policy from nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, nargs="?", help="YAML file of settings, default: the demo's")
    parser.add_argument("--output", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--threads", type=int, help="CPU threads of the training, 0 for torch's choice")
    parser.add_argument("--workers", type=int, help="processes that make frames, 0 for one a core")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from openvla_ros.paths import config_file
    from openvla_ros.training.blocks.recipe import build
    from openvla_ros.training.blocks.settings import load_settings

    changes = {name: getattr(args, name) for name in ("device", "threads", "workers")}
    file = args.config or config_file("training", "blocks_demo.yaml")
    settings = load_settings(file, {name: value for name, value in changes.items() if value is not None})
    console = Console()
    with _Screen(console) as screen:
        folder = build(settings, args.output, screen)
    console.print(f"checkpoint: {folder.resolve()}")
    return 0


class _Screen:
    """Implements `openvla_ros.training.blocks.recipe.RecipeWatcher` for people."""

    def __init__(self, console: object) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[now]}"), console=console)  # type: ignore[arg-type]
        self._task = self._progress.add_task("beginning", total=None, now="")

    def __enter__(self) -> _Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, what: str, total: int) -> None:
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total, now="")

    def advance(self, count: int, row: dict[str, float] | None = None) -> None:
        self._progress.update(self._task, advance=count)
        if row is not None:
            shown = ("loss", "hand_x", "red_x", "bins_x", "gripper_right", "grounding")
            now = " ".join(f"{name} {row[name]:.3g}" for name in shown if name in row)
            self._progress.update(self._task, now=now)
