"""The way out for commands, which a stop can shut from any thread."""

from __future__ import annotations

import threading
from copy import copy

from builtin_interfaces.msg import Duration as DurationMsg
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

import openvla_ros.msg as ours
from openvla_ros.ros import qos

_DRAIN = 0.2  # [s]


class Outlet:
    """The publisher of ``command``, with a door that any thread can shut: then only holds pass."""

    def __init__(self, node: Node) -> None:
        self._publisher = node.create_publisher(ours.SafeCommand, "command", qos.COMMAND)
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
            hold.kind, hold.duration = ours.SafeCommand.HOLD, DurationMsg()
            hold.header = Header(stamp=now, frame_id=self._last.header.frame_id)
            hold.action_received = hold.decided = now
            hold.action_sequence = hold.continues = 0
            hold.path = JointTrajectory()
            self._publisher.publish(hold)

    def drain(self) -> None:
        """Wait until who listens has what was sent, if that is soon."""
        self._publisher.wait_for_all_acked(Duration(seconds=_DRAIN))

    def open(self) -> None:
        with self._lock:
            self._shut = False
