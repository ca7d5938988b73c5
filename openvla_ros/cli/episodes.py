"""Lists recorded episodes, those that the filters leave; or mends those that a killed recorder has left cut off."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvla_ros.recording.provenance import Provenance

HELP = "list and filter recorded episodes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, help="where to look (default: the recorder's folder)")
    parser.add_argument("--outcome", choices=("unknown", "success", "failure", "aborted"))
    parser.add_argument("--failure", metavar="REASON", help="failure reason, for example bad_grasp")
    parser.add_argument("--mode", choices=("blocking", "non_blocking"))
    for name in ("instruction", "checkpoint", "robot"):
        parser.add_argument(f"--{name}", metavar="TEXT", help=f"text that the {name} contains")
    parser.add_argument("--cut-off", action="store_true", help="only those without an end")
    parser.add_argument("--json", action="store_true", help="one line of JSON an episode instead of a table")
    parser.add_argument("--recover", action="store_true", help="give those without an end what is missing")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from openvla_ros.cli._episodes import default_folder
    from openvla_ros.errors import RecordingError
    from openvla_ros.recording.episode import find_episodes, load_provenance

    console = Console()
    found: list[tuple[Path, Provenance]] = []
    broken: list[str] = []
    for folder in find_episodes(args.folder or default_folder()):
        try:
            about = load_provenance(folder)
        except RecordingError as error:
            broken.append(str(error))
            continue
        if all(test(about) for test in _tests(args)):
            found.append((folder, about))
    if args.recover:
        found = [(folder, _recover(folder, about)) for folder, about in found if not about.complete]
    if args.json:
        for folder, about in found:
            print(json.dumps({"folder": str(folder), **json.loads(about.model_dump_json())}))
    else:
        console.print(_table(found))
    for problem in broken:
        console.print(f"[red]{problem}[/]")
    return 1 if broken else 0


def _tests(args: argparse.Namespace) -> list[Callable[[Provenance], bool]]:
    """What an episode has to meet."""
    tests: list[Callable[[Provenance], bool]] = []
    if args.outcome:
        tests.append(lambda p: p.outcome.value == args.outcome)
    if args.failure:
        tests.append(lambda p: p.failure_reason is not None and p.failure_reason.value == args.failure)
    if args.mode:
        tests.append(lambda p: p.control.mode == args.mode)
    if args.instruction:
        tests.append(lambda p: any(args.instruction.lower() in i.text.lower() for i in p.instructions))
    if args.checkpoint:
        tests.append(lambda p: args.checkpoint in str(p.policy.get("checkpoint", "")))
    if args.robot:
        tests.append(lambda p: args.robot in p.robot)
    if args.cut_off:
        tests.append(lambda p: not p.complete)
    return tests


def _recover(folder: Path, about: Provenance) -> Provenance:
    from openvla_ros.recording.episode import recover_episode

    about, messages = recover_episode(folder, about)
    print(f"{folder}: {messages} messages recovered")
    return about


def _table(found: list[tuple[Path, Provenance]]) -> object:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("episode", no_wrap=True)
    table.add_column("instruction", min_width=14)
    for name in ("control", "outcome"):
        table.add_column(name)
    for name in ("s", "actions", "Hz", "lost"):
        table.add_column(name, justify="right")
    for folder, about in found:
        lost = sum((t.lost or 0) + t.dropped for t in about.topics.values())
        hz = about.measured.achieved_hz
        problem = about.problem or ("" if about.complete else "cut off, or still being recorded")
        table.add_row(
            folder.name,
            " / ".join(i.text for i in about.instructions),
            about.control.mode.replace("_", "-"),
            "\n".join(filter(None, [judgement(about), problem and f"[red]{escape(problem)}[/]"])),
            f"{about.seconds:.1f}" if about.seconds is not None else "",
            str(about.measured.actions),
            f"{hz:.2f}" if hz is not None else "",
            str(lost) if about.topics else "",
        )
    table.caption = f"{len(found)} {'episode' if len(found) == 1 else 'episodes'}"
    return table


def judgement(about: Provenance) -> str:
    """Outcome, score and reason in a few words."""
    score = "" if about.score is None or about.score in (0.0, 1.0) else f" {about.score:g}"
    reason = f" ({about.failure_reason.value})" if about.failure_reason is not None else ""
    return f"{about.outcome.value}{score}{reason}"
