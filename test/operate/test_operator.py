"""The operator as code: what it says when the graph is not there, does not answer or refuses."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rclpy.node import Node
from ros_nodes import Ros
from std_msgs.msg import Bool, String

from openvla_ros.errors import OpenVLAError
from openvla_ros.operate.operator import Operator
from openvla_ros.ros import qos


@pytest.fixture
def thing(domain: int) -> Iterator[None]:
    """The node of thing.py, in a process of its own as every node is."""
    script = Path(__file__).parents[1] / "support" / "thing.py"
    process = subprocess.Popen([sys.executable, str(script)])
    yield
    process.kill()  # it may be in the middle of not answering
    process.wait()


@pytest.fixture
def operator(domain: int) -> Iterator[Operator]:
    with Operator(domain=domain) as made:
        yield made


def test_services_answer_or_refuse(thing: None, operator: Operator) -> None:
    assert operator.trigger("thing/yes") == (True, "done")
    assert operator.trigger("thing/no") == (False, "the e-stop is pressed")


def test_a_missing_and_a_hanging_service_are_told_apart(thing: None, operator: Operator) -> None:
    """Hazard: `openvla-ros stop` that waits for ever, or reports a stop that nobody heard."""
    with pytest.raises(OpenVLAError, match="no service safety_filter/stop: is its node running"):
        operator.trigger("safety_filter/stop", timeout=0.2)
    with pytest.raises(OpenVLAError, match=r"thing/never did not answer within 2 s"):
        operator.trigger("thing/never", timeout=2)


def test_parameters_are_set_or_refused_with_the_reason(thing: None, operator: Operator) -> None:
    operator.set_parameters("thing", loop__control_hz=7.0, seed=3)
    assert operator.parameter("thing", "loop.control_hz") == 7.0
    assert operator.parameter("thing", "seed") == 3
    with pytest.raises(OpenVLAError, match=r"node 'thing' refused a parameter: \['seed'\] below zero"):
        operator.set_parameters("thing", seed=-1)


def test_a_transition_that_fails_is_an_error(thing: None, operator: Operator) -> None:
    """Hazard: the demo believes the policy to be in control, and measures nothing."""
    operator.transition("thing", "configure")
    assert operator.lifecycle_state("thing") == "inactive"
    with pytest.raises(OpenVLAError, match="'thing' could not activate, it is inactive; its log"):
        operator.transition("thing", "activate")


def test_an_instruction_reaches_who_joins_later(ros: Ros, operator: Operator) -> None:
    """Hazard: the policy starts after the operator spoke, and waits in silence."""
    operator.instruct("lift the block")
    operator.e_stop(True)
    heard: list[Any] = []
    node: Node = ros.node("late")
    node.create_subscription(String, "instruction", lambda m: heard.append(m.data), qos.LATCHED)
    node.create_subscription(Bool, "e_stop", lambda m: heard.append(m.data), qos.LATCHED)
    ros.spin_until(lambda: len(heard) == 2)
    assert set(heard) == {"lift the block", True}


def test_an_instruction_that_the_policy_does_not_hear_is_an_error(ros: Ros, operator: Operator) -> None:
    """Hazard: `openvla-ros instruct` in the wrong domain or namespace says nothing and does nothing; or it is content
    with the recorder, which listens too."""
    for name, namespace in [("recorder", ""), ("policy", "right")]:
        ros.node(name, namespace=namespace).create_subscription(String, "instruction", print, qos.LATCHED)
    operator.wait_for_listener("instruction", "recorder")
    with pytest.raises(OpenVLAError, match="node 'policy' does not listen to 'instruction'"):
        operator.wait_for_listener("instruction", "policy", timeout=0.3)


def test_it_speaks_in_its_namespace(ros: Ros, domain: int) -> None:
    """Hazard: two robots, and the other one is stopped."""
    heard: list[str] = []
    node = ros.node("policy", namespace="left")
    node.create_subscription(String, "instruction", lambda m: heard.append(m.data), qos.LATCHED)
    with Operator(domain=domain) as plain, Operator(domain=domain, namespace="left") as left:
        left.wait_for_listener("instruction", "policy")
        plain.instruct("for nobody")
        left.instruct("for left")
        left.wait_for_delivery()
        ros.spin_until(lambda: bool(heard))
        assert heard == ["for left"]
        assert plain.node.count_subscribers("instruction") == 0


def test_waiting_ends_with_the_message_that_it_is_for(ros: Ros, operator: Operator) -> None:
    heard: list[str] = []
    operator.watch(String, "said", qos.LATCHED, lambda m: heard.append(m.data))
    publisher = ros.node("speaker").create_publisher(String, "said", qos.LATCHED)
    publisher.publish(String(data="a"))
    assert operator.wait_for("a", lambda: heard[-1:] == ["a"] and "yes", 10) == "yes"
    with pytest.raises(OpenVLAError, match=r"waited 0\.1 s in vain for b"):
        operator.wait_for("b", lambda: "b" in heard, 0.1)


def test_a_failed_callback_is_told_to_who_waits(ros: Ros, operator: Operator) -> None:
    """Hazard: the thread dies of one message, and every later wait ends "in vain", naming the wrong cause."""
    operator.watch(String, "said", qos.LATCHED, lambda m: {}[m.data])
    ros.node("speaker").create_publisher(String, "said", qos.LATCHED).publish(String(data="what"))
    with pytest.raises(OpenVLAError, match=r"nothing is heard any more: KeyError\('what'\)"):
        operator.wait_for("anything", lambda: False, 10)


def test_closing_leaves_no_thread(domain: int) -> None:
    before = threading.active_count()
    with Operator("short_lived", domain=domain):
        assert threading.active_count() > before
    assert "short_lived" not in {t.name for t in threading.enumerate()}
