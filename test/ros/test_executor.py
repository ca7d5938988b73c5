"""rclpy's executor, less work: nothing may be lost by it."""

from __future__ import annotations

import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_nodes import Ros
from std_msgs.msg import Bool

from openvla_ros.ros import executor, qos
from openvla_ros.ros.executor import EventHandler, LeanExecutor


def test_events_are_not_waited_for_at_every_message(ros: Ros, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: the e-stop waits while rclpy builds a set of things that happen once in a node's life."""
    seen: list[object] = []
    add = EventHandler.add_to_wait_set

    def counted(self: EventHandler, wait_set: object) -> None:
        seen.append(self)
        add(self, wait_set)

    monkeypatch.setattr(EventHandler, "add_to_wait_set", counted)
    monkeypatch.setattr(executor, "_PERIOD", 3600.0)
    node = ros.node("lean")
    calls: list[int] = []
    node.create_timer(0.0, lambda: calls.append(1))
    lean = LeanExecutor(context=ros.context)
    lean.add_node(node)
    while len(calls) < 20:
        lean.spin_once(timeout_sec=10.0)
    lean.shutdown()
    assert seen  # once
    assert len(seen) == len(set(seen))


def test_an_event_is_reported_all_the_same(ros: Ros, capfd: pytest.CaptureFixture[str]) -> None:
    """Hazard: a stop button that can't be heard for its QoS, and nobody says so."""
    node, button = ros.node("lean"), ros.node("button")
    node.create_subscription(Bool, "e_stop", lambda _: None, qos.LATCHED)
    node.create_timer(0.02, lambda: None)
    lean = LeanExecutor(context=ros.context)
    lean.add_node(node)
    button.create_publisher(Bool, "e_stop", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    said = ""
    for _ in range(500):
        lean.spin_once(timeout_sec=1.0)
        said += capfd.readouterr().err
        if "incompatible QoS" in said:
            break
    lean.shutdown()
    assert "e_stop" in said
    assert "incompatible QoS" in said
