"""A publisher of `action` that has gone wild: valid actions, as fast as asked for, until it is ended.

python flood.py RATE_HZ; prints the rate that it reached when it is told to end.
"""

from __future__ import annotations

import signal
import sys
import time

import openvla_ros.msg as ours
import rclpy
from builtin_interfaces.msg import Duration
from rclpy.node import Node

from openvla_ros.ros import qos


def main(rate: float) -> None:
    rclpy.init(signal_handler_options=rclpy.SignalHandlerOptions.NO)
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    node = Node("flood")
    publisher = node.create_publisher(ours.DeltaAction, "action", qos.LATEST)
    message = ours.DeltaAction(gripper=1.0, duration=Duration(nanosec=200_000_000))
    message.translation.y = 0.04
    begin, sent = time.monotonic(), 0
    while not ended:
        now = time.time_ns()
        for stamp in (message.header.stamp, message.image_received, message.inference_started, message.inference_ended):
            stamp.sec, stamp.nanosec = divmod(now, 10**9)
        message.sequence = now // 1000
        publisher.publish(message)
        sent += 1
        time.sleep(max(0.0, begin + sent / rate - time.monotonic()))
    print(f"{sent / (time.monotonic() - begin):.0f} actions a second")
    node.destroy_node()


if __name__ == "__main__":
    main(float(sys.argv[1]))
