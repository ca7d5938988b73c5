"""A ROS context of one's own for a test: no other test's nodes, parameters or signals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import rclpy
from graph_harness import reserved_domain
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from openvla_ros.bringup.dds import local_environment


@contextmanager
def own_domain() -> Iterator[int]:
    """A reserved domain on this machine only, in the environment too: for processes that are started in it."""
    with reserved_domain() as domain, pytest.MonkeyPatch.context() as patch:
        for name, value in local_environment(domain).items():
            patch.setenv(name, value)
        yield domain


@contextmanager
def context(domain: int, arguments: list[str] | None = None) -> Iterator[Context]:
    """A context with ROS arguments, as a node process gets them on its command line."""
    made = Context()
    rclpy.init(args=["test", *(arguments or [])], context=made, domain_id=domain)
    try:
        yield made
    finally:
        made.try_shutdown()


class Ros:
    """Nodes in one context; ``spin_until`` runs their callbacks in the calling thread."""

    def __init__(self, made: Context) -> None:
        self.context = made
        self.executor = SingleThreadedExecutor(context=made)
        self.nodes: list[Node] = []

    def node(self, name: str, kind: type[Node] = Node, **options: Any) -> Node:
        node = kind(name, context=self.context, **options)
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def spin_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        deadline = self.nodes[0].get_clock().now().nanoseconds + timeout * 1e9
        while not condition():
            assert self.nodes[0].get_clock().now().nanoseconds < deadline, "nothing came"
            self.executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        self.executor.shutdown()
        for node in self.nodes:
            node.destroy_node()


@contextmanager
def ros(domain: int, arguments: list[str] | None = None) -> Iterator[Ros]:
    with context(domain, arguments) as made:
        running = Ros(made)
        try:
            yield running
        finally:
            running.close()
