"""Runs the whole graph on the simulated arm: three instructions in each control mode, an e-stop and its reset.

The small policy that comes with the package was trained for this scene (docs/demo-policy.md); the simulator judges what
it does. Leaves a video, a plot, a summary, an episode for each mode (`openvla-ros show`) and the nodes' logs in the
output folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "the whole graph on the simulated arm, with a report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of each control mode, at most (default %(default)g)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("out/demo"), help="folder for the report (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random scene (default %(default)s)")
    parser.add_argument("--checkpoint", help="another checkpoint: hub id or folder")
    parser.add_argument("--unnorm-key", default="", help="dataset whose statistics un-normalize its actions")
    parser.add_argument("--domain", type=int, help="ROS domain (default: a random one, so that nothing else is moved)")


def run(args: argparse.Namespace) -> int:
    import os

    from openvla_ros.bringup.dds import local_environment
    from openvla_ros.bringup.graph import sim
    from openvla_ros.cli._graph import choose_domain
    from openvla_ros.demo.scenario import run_scenario

    output = args.output.resolve()
    graph = sim().with_parameters("policy", autostart=False).with_parameters("sim", seed=args.seed)
    graph = graph.with_parameters("recorder", episodes=str(output / "episodes"))
    if args.checkpoint:
        graph = graph.with_parameters("policy", checkpoint=args.checkpoint, unnorm_key=args.unnorm_key)
    os.environ.update(local_environment(choose_domain(args.domain)))
    run_scenario(graph, args.seconds, output)
    return 0
