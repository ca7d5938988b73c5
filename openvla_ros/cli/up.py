"""Starts a graph's nodes and keeps them running until Ctrl-C, for machines without `ros2 launch`."""

from __future__ import annotations

import argparse
import os
import sys
import time

from openvla_ros.bringup.graph import ARGUMENTS, GRAPHS
from openvla_ros.errors import ConfigError

HELP = "start a graph, until Ctrl-C"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("graph", choices=sorted(GRAPHS), help="which graph")
    parser.add_argument("--domain", type=int, help="ROS domain (default: ROS_DOMAIN_ID)")
    parser.add_argument("--namespace", help="namespace of all nodes (default: the graph's own)")
    for argument in ARGUMENTS:
        parser.add_argument(f"--{argument.name.replace('_', '-')}", dest=argument.name, help=argument.description)


def run(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from openvla_ros.bringup.dds import warning
    from openvla_ros.bringup.processes import Processes

    graph = GRAPHS[args.graph]()
    if args.namespace is not None:
        graph = replace(graph, namespace=args.namespace)
    for argument in ARGUMENTS:
        value = getattr(args, argument.name)
        if value is not None and not argument.fits(graph):
            raise ConfigError(f"--{argument.name}: the graph '{args.graph}' has no node '{argument.node}'")
        if value is not None:
            graph = graph.with_argument(argument.name, value)
    if args.domain is not None:
        os.environ["ROS_DOMAIN_ID"] = str(args.domain)
    if warning():
        print(f"warning: {warning()}", file=sys.stderr, flush=True)
    with Processes(graph) as nodes:
        print(f"running: {', '.join(n.name for n in graph.nodes)}. Ctrl-C ends them.", flush=True)
        while True:
            nodes.check()
            time.sleep(0.5)
