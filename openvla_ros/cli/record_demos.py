"""Records demonstrations: the scripted expert at work in random simulated scenes, on all cores, faster than real time.

Each success becomes an episode, as the recorder writes them; dataset_statistics.json beside them is OpenVLA's. Part of
the episodes is executed with noise, part with the lag of a real inference: what is to be learned stays the expert's own
answer. The same command again goes on where it was cut off, or adds episodes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvla_ros.experiments.demonstrations import DemoSettings, Summary

HELP = "record demonstrations of the simulated arm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, help="folder for the episodes")
    parser.add_argument("--episodes", type=int, default=1000, help="how many are tried (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: %(default)s)")
    parser.add_argument("--name", default="blocks_demo", help="of the dataset, its unnorm_key (default: %(default)s)")
    parser.add_argument(
        "--noise",
        type=float,
        default=0.6,
        metavar="SHARE",
        help="of episodes whose executed actions are disturbed (default: %(default)s)",
    )
    parser.add_argument(
        "--lagged",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of episodes in non-blocking control with --latency; the others are blocking (default: %(default)s)",
    )
    parser.add_argument(
        "--latency", type=float, default=0.17, metavar="S", help="of inference in those [s] (default: %(default)s)"
    )
    parser.add_argument("--size", default="224", help="of images: N or WIDTHxHEIGHT (default: %(default)s)")
    parser.add_argument("--quality", type=int, default=95, help="of JPEG (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from openvla_ros.cli._progress import progress_bar
    from openvla_ros.experiments.demonstrations import Demonstration, record

    console = Console()
    settings = _settings(args)
    counts = {"recorded": 0, "failed": 0, "there already": 0}
    with progress_bar(console, "episodes", args.episodes) as advance:

        def update(demonstration: Demonstration) -> None:
            failed = demonstration.transitions is None
            counts["failed" if failed else "recorded" if demonstration.outcome else "there already"] += 1
            advance(", ".join(f"{count} {what}" for what, count in counts.items() if count))

        summary = record(args.output, settings, args.episodes, args.workers, update)
    _print(summary, args.output, console)
    return 0


def _settings(args: argparse.Namespace) -> DemoSettings:
    """Raises ConfigError."""
    from pydantic import ValidationError

    from openvla_ros.cli._sizes import image_size
    from openvla_ros.errors import ConfigError
    from openvla_ros.experiments.demonstrations import DemoSettings

    if args.episodes < 1:
        raise ConfigError(f"--episodes is {args.episodes}; give 1 or more")
    try:
        return DemoSettings(
            name=args.name,
            seed=args.seed,
            noisy_share=args.noise,
            lagged_share=args.lagged,
            latency=args.latency,
            image_size=image_size(args.size),
            image_quality=args.quality,
        )
    except ValidationError as error:
        names = {"noisy_share": "noise", "lagged_share": "lagged", "image_quality": "quality"}
        problems = [f"--{names.get(str(e['loc'][0]), e['loc'][0])} {e['input']!r}: {e['msg']}" for e in error.errors()]
        raise ConfigError("; ".join(problems)) from error


def _print(summary: Summary, output: Path, console: object) -> None:
    from rich.console import Console

    assert isinstance(console, Console)
    console.print(
        f"{summary.recorded} of {summary.episodes} episodes succeeded and are in {output}: {summary.transitions} "
        f"transitions, and {summary.noops} no-ops that the statistics leave out"
    )
    for what, counts in (("instruction", summary.by_instruction), ("control", summary.by_mode)):
        console.print(f"by {what}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    if summary.failed:
        console.print(f"failed: {', '.join(summary.failed[:20])}{' ...' if len(summary.failed) > 20 else ''}")
