"""The way out for commands, which a stop can shut from any thread."""

from __future__ import annotations

import threading
from copy import copy

from builtin_interfaces.msg import Duration, Time
from rclpy.node import Node
from std_msgs.msg import Header

import openvla_ros.msg as ours
from openvla_ros.ros import qos


class Outlet:
    """The publisher of ``command``, with a door that any thread can shut: then only holds pass."""

    def __init__(self, node: Node) -> None:
        self._publisher = node.create_publisher(ours.SafeCommand, "command", qos.LATEST)
        self._lock = threading.Lock()
        self._shut = False
        self._last = ours.SafeCommand(kind=ours.SafeCommand.HOLD)

    def send(self, message: ours.SafeCommand) -> None:
        with self._lock:
            if message.kind == ours.SafeCommand.HOLD or not self._shut:
                self._publisher.publish(message)
                self._last = message

    def shut(self, now: Time) -> None:
        """Hold, at once, and let no motion pass any more."""
        with self._lock:
            self._shut = True
            hold = copy(self._last)
            hold.kind, hold.duration = ours.SafeCommand.HOLD, Duration()
            hold.header = Header(stamp=now, frame_id=self._last.header.frame_id)
            hold.action_received = hold.decided = now
            hold.action_sequence = 0
            self._publisher.publish(hold)

    def open(self) -> None:
        with self._lock:
            self._shut = False
