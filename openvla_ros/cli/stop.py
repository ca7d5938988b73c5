"""Stops the arm of a running graph. The stop latches: only `openvla-ros reset` re-arms.

Not a substitute for the hardware e-stop: keep that within reach.
"""

from __future__ import annotations

import argparse

from openvla_ros.cli._graph import add_graph_arguments, call

HELP = "stop the arm, latched"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_graph_arguments(parser)


def run(args: argparse.Namespace) -> int:
    return call(args, "safety_filter/stop")
