"""Sends an episode's recorded actions again, or runs a policy on its recorded images, and says how far that differs.

The actions go into a running graph, simulation or robot, through its safety filter; --sim starts a simulation for it.
Mind the arm: it moves as it did then, whatever stands there now.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from openvla_ros.cli._graph import add_graph_arguments, choose_domain, open_operator

if TYPE_CHECKING:
    from openvla_ros.bringup.processes import Processes
    from openvla_ros.recording.episode import Episode
    from openvla_ros.recording.replay import Plan, Replay

HELP = "send recorded actions again, or compare a policy with them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("episode", help="folder of the episode, or its name in the recorder's folder")
    parser.add_argument("--output", type=Path, help="folder for the report (default: out/replay/EPISODE)")
    arm = parser.add_argument_group("recorded actions on an arm")
    arm.add_argument(
        "--source",
        choices=("raw", "accepted"),
        default="raw",
        help="what the policy asked for, or what the safety filter made of it; both pass the filter again "
        "(default: %(default)s)",
    )
    arm.add_argument("--sim", action="store_true", help="start the simulation for it, with the scene's recorded seed")
    arm.add_argument(
        "--move-to-start", action="store_true", help="bring the arm straight to the start pose first, at 5 cm/s"
    )
    arm.add_argument("--start-mm", type=float, default=20.0, help="how near the start pose it must be [mm]")
    arm.add_argument("--start-deg", type=float, default=5.0, help="and at which angle [deg] (default: %(default)g)")
    arm.add_argument(
        "--stray-mm",
        type=float,
        default=50.0,
        help="end it when commanded targets differ by more [mm] (default: %(default)g)",
    )
    arm.add_argument("--max-mm", type=float, help="exit status 1 if the pose differs by more after any step [mm]")
    arm.add_argument("--max-deg", type=float, help="exit status 1 if the orientation differs by more [deg]")
    add_graph_arguments(parser)
    policy = parser.add_argument_group("a policy on the recorded images; no arm, no ROS")
    policy.add_argument("--policy", metavar="CHECKPOINT", help="checkpoint folder, or hub id owner/name[@revision]")
    policy.add_argument("--unnorm-key", help="dataset whose statistics un-normalize actions (default: the recorded)")
    policy.add_argument("--device", default="auto", help="torch device (default: %(default)s)")
    policy.add_argument("--precision", default="auto", help="of the model (default: %(default)s)")
    policy.add_argument("--min-agreement", type=float, help="exit status 1 if fewer tokens agree [0..1]")


def run(args: argparse.Namespace) -> int:
    from openvla_ros.cli._episodes import episode_folder
    from openvla_ros.recording.episode import Episode

    episode = Episode.open(episode_folder(args.episode))
    output = (args.output or Path("out/replay") / episode.provenance.episode_id).resolve()
    return _offline(args, episode, output) if args.policy else _on_arm(args, episode, output)


def _offline(args: argparse.Namespace, episode: Episode, output: Path) -> int:
    from rich.console import Console
    from rich.progress import track

    from openvla_ros.errors import ReplayError
    from openvla_ros.policy.registry import load_policy
    from openvla_ros.recording import offline
    from openvla_ros.robots.description import load_robot

    if args.sim or args.move_to_start:
        raise ReplayError("--policy compares without an arm: leave out --sim and --move-to-start")
    about = episode.provenance
    policy = load_policy(
        args.policy,
        unnorm_key=args.unnorm_key or about.policy.get("unnorm_key"),
        device=args.device,
        precision=args.precision,
    )
    if about.robot:
        load_robot(about.robot).require(policy.semantics)
    policy.warm_up()
    console = Console()
    steps = track(episode.steps(), "steps", total=len(episode.trace.steps), transient=True, console=console)
    comparison = offline.compare(episode, policy, steps)
    console.print(offline.table(comparison))
    for note in comparison.notes:
        console.print(f"note: {note}")
    offline.write(comparison, output)
    console.print(f"report: {output}")
    if args.min_agreement is None:
        return 0
    agreement = comparison.agreement
    if agreement is None:
        raise ReplayError("--min-agreement: no tokens were recorded in this episode")
    return int(float(agreement.mean()) < args.min_agreement)


def _on_arm(args: argparse.Namespace, episode: Episode, output: Path) -> int:
    from contextlib import ExitStack

    from rich.console import Console

    from openvla_ros.operate.replayer import Replayer
    from openvla_ros.recording import replay_report
    from openvla_ros.recording.replay import Tolerance, make_plan

    console = Console()
    plan = make_plan(episode, args.source)
    tolerance = Tolerance(args.start_mm / 1e3, math.radians(args.start_deg), args.stray_mm / 1e3)
    with ExitStack() as stack:
        if args.sim:
            stack.enter_context(_simulation(args, plan, output))
        operator = stack.enter_context(open_operator(args))
        replayer = Replayer(operator, plan, tolerance)
        replayer.prepare(timeout=60.0 if args.sim else 10.0)
        if args.move_to_start:
            console.print("moving to the start pose")
            replayer.move_to_start()
        console.print(f"replaying {len(plan.steps)} actions, {plan.seconds:.1f} s; Ctrl-C stops sending")
        replay = replayer.run()
    replay_report.write(replay, output)
    console.print(replay_report.table(replay))
    console.print(f"report: {output}")
    return int(not replay.complete or _exceeds(args, replay))


def _simulation(args: argparse.Namespace, plan: Plan, output: Path) -> Processes:
    """The simulation's processes, without policy and recorder, in a ROS domain of its own."""
    import os

    from openvla_ros.bringup.dds import local_environment
    from openvla_ros.bringup.graph import sim
    from openvla_ros.bringup.processes import Processes

    scene = {name: value for name, value in (("seed", plan.seed), ("scene", plan.scene)) if value is not None}
    graph = sim().without("policy").without("recorder").with_parameters("sim", **scene)
    args.domain = choose_domain(args.domain)
    args.namespace = graph.namespace
    os.environ.update(local_environment(args.domain))
    return Processes(graph, log_dir=output / "log")


def _exceeds(args: argparse.Namespace, replay: Replay) -> bool:
    mm = args.max_mm is not None and any(d.mm > args.max_mm for d in replay.differences)
    return mm or (args.max_deg is not None and any(d.degrees > args.max_deg for d in replay.differences))
