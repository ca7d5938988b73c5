"""What a node says about itself, heard by another."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ros_nodes import Ros

from openvla_ros.ros.diagnostics import ERROR, OK, Diagnostics


def listen(ros: Ros, period: float) -> tuple[Diagnostics, list[DiagnosticStatus]]:
    heard: list[DiagnosticStatus] = []
    node = ros.node("thing", namespace="left")
    diagnostics = Diagnostics(node, period)
    listener = ros.node("listener")
    listener.create_subscription(DiagnosticArray, "/diagnostics", lambda m: heard.extend(m.status), 10)
    ros.spin_until(lambda: node.count_subscribers("/diagnostics") > 0)
    return diagnostics, heard


def test_a_change_of_level_is_said_at_once(ros: Ros) -> None:
    """Hazard: the camera dies, and the operator's screen says so a period later."""
    diagnostics, heard = listen(ros, period=3600.0)
    diagnostics.set(ERROR, "no image", age=1.5)
    ros.spin_until(lambda: bool(heard))
    (status,) = heard
    assert (status.name, status.level, status.message) == ("left/thing", ERROR, "no image")
    assert [(v.key, v.value) for v in status.values] == [("age", "1.5")]


def test_the_same_level_waits_for_its_turn(ros: Ros) -> None:
    """A status with a number in it that changes at 100 Hz must not flood /diagnostics."""
    diagnostics, heard = listen(ros, period=0.5)
    ros.spin_until(lambda: bool(heard))  # a turn just passed
    heard.clear()
    for i in range(50):
        diagnostics.set(OK, f"message {i}")
    ros.spin_until(lambda: bool(heard))
    assert [s.message for s in heard] == ["message 49"]
    ros.spin_until(lambda: len(heard) >= 2)  # and again without being set
    assert heard[1].message == "message 49"
