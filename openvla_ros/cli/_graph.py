"""What the verbs that act on a running graph share."""

from __future__ import annotations

import argparse
import os
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvla_ros.operate.operator import Operator


def add_graph_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--domain", type=int, help="ROS domain (default: ROS_DOMAIN_ID)")
    parser.add_argument("--namespace", default="", help="namespace of the graph")


def open_operator(args: argparse.Namespace) -> Operator:
    """An operator in the graph that the arguments name, on the transport that the graph uses."""
    from openvla_ros.bringup.dds import environment
    from openvla_ros.operate.operator import Operator

    os.environ.update(environment())
    return Operator(domain=args.domain, namespace=args.namespace)


def call(args: argparse.Namespace, service: str) -> int:
    """Call a service of the graph, print its answer: the exit status."""
    with open_operator(args) as operator:
        done, message = operator.trigger(service)
    print(message)
    return 0 if done else 1


def choose_domain(domain: int | None) -> int:
    """The ROS domain that was asked for, or a random one: a graph of one's own moves nothing else."""
    # Fast DDS's ports for domains above 101 lie in the range of Linux's ephemeral ports.
    return random.randint(1, 101) if domain is None else domain
