"""Tries a policy in simulated scenes and says how often it does what it is told.

In lockstep, on all cores and faster than real time, or with --graph through the whole ROS graph in real time, every
trial a recorded episode. Success is the simulator's own judgement, by instruction with its 95 % interval. The scenes
are the same for every policy, control mode and way, and none of them is in demonstrations. Leaves evaluation.json and
a picture of final frames.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from openvla_ros.experiments.evaluation import Evaluation, EvaluationSettings, Tried
    from openvla_ros.experiments.scores import Proportion, Score

HELP = "success of a policy in simulated scenes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sim", action="store_true", required=True, help="in the simulation: there is no other place yet"
    )
    parser.add_argument("--graph", action="store_true", help="through the whole ROS graph, in real time")
    parser.add_argument("--domain", type=int, help="ROS domain of --graph (default: a random one)")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--checkpoint", help="hub id or folder of the policy")
    who.add_argument(
        "--expert", action="store_true", help="the scripted expert, which sees more than images: a reference"
    )
    parser.add_argument("--unnorm-key", help="dataset whose statistics un-normalize the actions")
    parser.add_argument("--device", default="auto", help="torch device (default: %(default)s)")
    parser.add_argument("--precision", default="auto", help="of the weights (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the model in each process (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=60, help="of all instructions together (default: %(default)s)")
    parser.add_argument(
        "--instruction",
        action="append",
        metavar="TEXT",
        help="may be repeated (default: the scene's six); one that the simulator can't judge is tried all the same",
    )
    parser.add_argument("--first-scene", type=int, default=0, help="number of the first scene (default: %(default)s)")
    parser.add_argument("--mode", choices=("blocking", "non_blocking"), default="blocking")
    parser.add_argument(
        "--latency",
        default="auto",
        help="of inference [s]; auto: as measured on this machine now (default: %(default)s)",
    )
    parser.add_argument("--size", default="640x480", help="of camera images: N or WIDTHxHEIGHT (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, default=120, help="of an episode (default: %(default)s)")
    parser.add_argument(
        "--max-seconds", type=float, default=60.0, help="of an episode, simulated (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one a core; on a GPU one)")
    parser.add_argument(
        "--output", type=Path, default=Path("out/evaluation"), help="folder for the results (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from openvla_ros.experiments.evaluation import evaluate, measure, save

    console = Console()
    settings = _settings(args)
    if args.graph:
        return _through_the_graph(args, settings, console)
    with console.status("measuring the policy's latency" if args.checkpoint else "starting"):
        latency, described = measure(settings)
    if args.latency == "auto":
        settings = settings.model_copy(update={"latency": round(latency, 4)})
    on_gpu = str(described.get("device", "")).startswith("cuda")
    with _progress(console, settings.episodes) as update:
        result, tried = evaluate(settings, described, args.workers or (1 if on_gpu else 0), update)
    save(result, tried, args.output)
    console.print(_table(result, f"latency {settings.latency * 1e3:.0f} ms"))
    if result.inference_ms is not None:
        console.print(f"an inference took {result.inference_ms:.1f} ms (median), beside the other processes")
    console.print(f"{args.output / 'evaluation.json'}, {args.output / 'final_frames.png'}", soft_wrap=True)
    return 0


def _through_the_graph(args: argparse.Namespace, settings: EvaluationSettings, console: Console) -> int:
    import os

    from openvla_ros.bringup.dds import local_environment
    from openvla_ros.cli._graph import choose_domain
    from openvla_ros.demo.evaluation import evaluate_graph
    from openvla_ros.errors import ConfigError
    from openvla_ros.experiments.evaluation import save

    if args.expert:
        raise ConfigError("--expert sees what no camera shows: it acts in lockstep only, without --graph")
    made_up = {"--latency": args.latency != "auto", "--size": args.size != "640x480", "--workers": args.workers != 0}
    if any(made_up.values()):
        given = ", ".join(name for name, is_given in made_up.items() if is_given)
        raise ConfigError(f"{given}: in the graph latency, camera and processes are the real ones; leave it out")
    os.environ.update(local_environment(choose_domain(args.domain)))
    with _progress(console, settings.episodes) as update:
        result, tried = evaluate_graph(settings, args.output.resolve(), update)
    save(result, tried, args.output)
    console.print(_table(result, "through the graph"))
    console.print(f"an inference took {result.inference_ms or 0.0:.1f} ms (median)")
    console.print(f"{args.output / 'evaluation.json'}; openvla-ros episodes {args.output / 'episodes'}", soft_wrap=True)
    return 0


@contextlib.contextmanager
def _progress(console: Console, episodes: int) -> Iterator[Callable[[Tried], None]]:
    from openvla_ros.cli._progress import progress_bar

    successes = 0
    with progress_bar(console, "episodes", episodes) as advance:

        def update(tried: Tried) -> None:
            nonlocal successes
            successes += bool(tried.outcome.success)
            advance(f"{successes} successes")

        yield update


def _settings(args: argparse.Namespace) -> EvaluationSettings:
    """Raises ConfigError."""
    from pydantic import ValidationError

    from openvla_ros.cli._sizes import image_size
    from openvla_ros.errors import ConfigError
    from openvla_ros.experiments.evaluation import EvaluationSettings, PolicySettings

    values = {name: getattr(args, name) for name in ("episodes", "first_scene", "mode", "max_steps", "max_seconds")}
    if args.instruction:
        values["instructions"] = tuple(args.instruction)
    policy = {name: getattr(args, name) for name in ("checkpoint", "unnorm_key", "device", "precision", "threads")}
    try:
        return EvaluationSettings(
            policy=PolicySettings(**policy),
            latency=0.0 if args.latency == "auto" else args.latency,
            image_size=image_size(args.size),
            **values,
        )
    except ValidationError as error:
        problems = [f"--{str(e['loc'][0]).replace('_', '-')} {e['input']!r}: {e['msg']}" for e in error.errors()]
        raise ConfigError("; ".join(problems)) from error


def _table(result: Evaluation, how: str) -> Table:
    from rich.table import Table

    settings = result.settings
    who = settings.policy.checkpoint or "scripted expert"
    mode = settings.mode.replace("_", "-")
    table = Table(title=f"{who}, {mode} control, {how}")
    table.add_column("instruction")
    for name in ("success", "95 %", "wrong object", "steps", "no action", "s"):
        table.add_column(name, justify="right")
    for text, score in result.by_instruction.items():
        table.add_row(text, *_cells(score))
    table.add_section()
    table.add_row("all", *_cells(result.overall), style="bold")
    table.caption = "s: simulated seconds until the task was done, mean of the successes"
    return table


def _cells(score: Score) -> list[str]:
    success = score.success
    return [
        _count(success) if success else "not judged",
        f"{success.low * 100:.0f} to {success.high * 100:.0f}" if success else "",
        _count(score.wrong_object),
        f"{score.steps:.1f}",
        f"{score.no_action:.1f}" if score.no_action else "",
        f"{score.seconds:.1f}" if score.seconds is not None else "",
    ]


def _count(rate: Proportion) -> str:
    return f"{rate.count} of {rate.of}"
