"""The safety filter's process, which the first heartbeat keeps busy until a line comes on stdin."""

from __future__ import annotations

import sys

from std_msgs.msg import Empty

from openvla_ros.nodes.safety_filter_node import SafetyFilterNode
from openvla_ros.ros import spin, stop_signal


class BusyFilter(SafetyFilterNode):
    _free = True

    def _on_heartbeat(self, _: Empty) -> None:
        if self._free:
            self._free = False
            print("busy", flush=True)
            sys.stdin.readline()


def make() -> BusyFilter:
    node = BusyFilter()
    stop_signal.watch(node.stop_at_once)
    return node


if __name__ == "__main__":
    sys.exit(spin.run(make))
