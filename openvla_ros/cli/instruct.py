"""Sends an instruction to the policy of a running graph."""

from __future__ import annotations

import argparse

from openvla_ros.cli._graph import add_graph_arguments, open_operator

HELP = "tell the policy what to do"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", help='for example "put the spoon on the towel"')
    add_graph_arguments(parser)


def run(args: argparse.Namespace) -> int:
    with open_operator(args) as operator:
        operator.wait_for_listener("instruction", "policy")
        operator.instruct(args.text)
        operator.wait_for_delivery()
    return 0
