"""What every node says about itself on /diagnostics: one status, once a second and whenever its level changes."""

from __future__ import annotations

from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from openvla_ros.ros import timers

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Diagnostics:
    """Publishes the last thing that was ``set``."""

    def __init__(self, node: Node, period: float = 1.0, task: str = "") -> None:
        """``task``: of what this is the status, where a node has several."""
        self._node = node
        name = node.get_fully_qualified_name().lstrip("/") + (f": {task}" if task else "")
        self._status = DiagnosticStatus(name=name, level=OK, message="starting", hardware_id="")
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        timers.every(node, period, self._publish)

    def set(self, level: bytes, message: str, **values: Any) -> None:
        """level: OK, WARN or ERROR; values become the key-value pairs."""
        changed = level != self._status.level
        self._status.level = level
        self._status.message = message
        self._status.values = [KeyValue(key=k, value=str(v)) for k, v in values.items()]
        if changed:
            self._publish()

    def _publish(self) -> None:
        array = DiagnosticArray(status=[self._status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)
