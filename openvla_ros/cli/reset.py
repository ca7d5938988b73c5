"""Re-arms the safety filter of a running graph after a stop, or after its start. Refused while the cause persists."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from openvla_ros.cli._graph import add_graph_arguments, open_operator

if TYPE_CHECKING:
    from openvla_ros.operate.operator import Operator

HELP = "re-arm after a stop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_graph_arguments(parser)
    parser.add_argument(
        "--release", action="store_true", help="release the e_stop topic first: for a button that died while pressed"
    )


def release(operator: Operator) -> None:
    """Wait until the filter knows of it: a request that overtakes the release would be refused."""
    from openvla_ros.msg import SafetyStatus
    from openvla_ros.ros import qos

    statuses: list[SafetyStatus] = []
    operator.watch(SafetyStatus, "safety_status", qos.STATUS, statuses.append)
    operator.e_stop(False)
    operator.wait_for("the release", lambda: statuses and not statuses[-1].stop_pressed, 5.0)


def run(args: argparse.Namespace) -> int:
    with open_operator(args) as operator:
        if args.release:
            release(operator)
        done, message = operator.trigger("safety_filter/reset")
    print(message)
    return 0 if done else 1
