"""Goes on after a reset of the safety filter, which moves nothing by itself.

An activation of the policy, or another instruction, does the same.
"""

from __future__ import annotations

import argparse

from openvla_ros.cli._graph import add_graph_arguments, call

HELP = "go on after a reset"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_graph_arguments(parser)


def run(args: argparse.Namespace) -> int:
    return call(args, "safety_filter/resume")
