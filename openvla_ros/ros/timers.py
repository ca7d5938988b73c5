"""Timers that a change of the system clock cannot hold up."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.timer import Timer


def every(node: Node, period: float, callback: Callable[[], None]) -> Timer:
    """Call ``callback`` every ``period`` [s] of the steady clock.

    rclpy's own timers follow the node's clock: with that set back by an hour, a watchdog would sleep for an hour.
    """
    return node.create_timer(period, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))
