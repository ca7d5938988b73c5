"""Re-arms the safety filter of a running graph after a stop. Refused while the cause persists."""

from __future__ import annotations

import argparse

from openvla_ros.cli._graph import add_graph_arguments, open_operator

HELP = "re-arm after a stop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_graph_arguments(parser)


def run(args: argparse.Namespace) -> int:
    with open_operator(args) as operator:
        done, message = operator.trigger("safety_filter/reset")
    print(message)
    return 0 if done else 1
