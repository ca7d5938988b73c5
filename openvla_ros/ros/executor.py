"""rclpy's executor, less the half of its work that nothing needs at every message."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

from rclpy.executors import SingleThreadedExecutor

try:
    from rclpy.event_handler import EventHandler
except ImportError:  # Humble
    from rclpy.qos_event import QoSEventHandler as EventHandler

_PERIOD = 1.0  # [s]


class LeanExecutor(SingleThreadedExecutor):
    """Looks for QoS events, such as a publisher that can't be heard, once a second.

    Every publisher and every subscription has one or two: of the filter's 40 entities 20. rclpy builds the set of what
    it waits for anew after each message, and these are the dearest part of it. Events wait until they are looked for.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._looks = True
        self._due = 0.0  # steady clock [s]

    def can_execute(self, entity: Any) -> bool:
        return (self._looks or not isinstance(entity, EventHandler)) and bool(super().can_execute(entity))

    def _wait_for_ready_callbacks(self, *arguments: Any, **options: Any) -> Generator[Any, None, None]:
        """rclpy's own, which builds the set; were it not called any more, we would look every time."""
        now = time.monotonic()
        self._looks = now >= self._due
        if self._looks:
            self._due = now + _PERIOD
        yield from super()._wait_for_ready_callbacks(*arguments, **options)
