"""Re-arms the safety filter of a running graph after a stop, or after its start. Refused while the cause persists."""

from __future__ import annotations

import argparse

from openvla_ros.cli._graph import add_graph_arguments, open_operator

HELP = "re-arm after a stop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_graph_arguments(parser)
    parser.add_argument(
        "--release", action="store_true", help="release the e_stop topic first: for a button that died while pressed"
    )


def run(args: argparse.Namespace) -> int:
    with open_operator(args) as operator:
        if args.release:
            operator.wait_for_listener("e_stop", "safety_filter")
            operator.e_stop(False, delivered_within=5.0)
        done, message = operator.trigger("safety_filter/reset")
    print(message)
    return 0 if done else 1
