"""What the arm does when a part of the graph fails. Each test breaks a graph of its own."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvla_ros.msg as ours
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from graph_harness import Running, alive, idle_graph, node_processes, run_graph
from sensor_msgs.msg import Image

from openvla_ros.ros import qos


class Relay:
    """Stands between camera and policy: passes images on, until told to damage or to keep them."""

    def __init__(self, running: Running) -> None:
        self.mode = "pass"
        self._publisher = running.operator.node.create_publisher(Image, "image", qos.CAMERA)
        running.operator.watch(Image, "camera/image", qos.CAMERA, self._on_image)

    def _on_image(self, message: Image) -> None:
        if self.mode == "encoding":
            message.encoding = "32FC1"
        if self.mode == "frozen":
            message.header.stamp = self._stamp
        self._stamp = message.header.stamp
        if self.mode != "silent":
            self._publisher.publish(message)


class Faults:
    """A graph in non-blocking control whose camera goes through a relay, and what its nodes say."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.actions: list[ours.DeltaAction] = []
        self.arm = ours.ArmState()
        self.status = ours.SafetyStatus()
        self.diagnostics: dict[str, str] = {}
        self.heard: Counter[str] = Counter()
        self.relay = Relay(running)
        operator = running.operator
        operator.watch(ours.DeltaAction, "action", qos.STREAM, self.actions.append)
        operator.watch(ours.ArmState, "arm_state", qos.LATEST, lambda m: setattr(self, "arm", m))
        operator.watch(ours.SafetyStatus, "safety_status", qos.STATUS, lambda m: setattr(self, "status", m))
        operator.watch(DiagnosticArray, "/diagnostics", qos.STREAM, self._on_diagnostics)
        running.start_afresh()
        running.activate("non_blocking")
        self.wait_for_motion()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics |= {s.name: s.message for s in message.status}
        self.heard.update(s.name for s in message.status)

    def wait_for_motion(self) -> None:
        count = len(self.actions)
        self.running.wait("three actions", lambda: len(self.actions) >= count + 3, 60)

    def wait_for_rest(self) -> None:
        """At rest, and held by the filter or the driver."""
        self.running.operator.wait_for("the arm at rest", lambda: self.speed < 0.005, 5)

    def wait_for_state(self, state: int) -> None:
        self.running.operator.wait_for(f"safety state {state}", lambda: self.status.state == state, 10)

    @property
    def speed(self) -> float:
        twist = self.arm.twist.linear
        return float(np.linalg.norm([twist.x, twist.y, twist.z]))


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    graph = idle_graph()
    nodes = tuple(replace(n, remappings={"image": "camera/image"}) if n.name == "sim" else n for n in graph.nodes)
    with run_graph(replace(graph, nodes=nodes), tmp_path_factory.mktemp("log")) as running:
        yield running


@pytest.fixture
def faults(relayed: Running) -> Iterator[Faults]:
    faults = Faults(relayed)
    yield faults
    faults.relay.mode = "silent"
    if relayed.operator.lifecycle_state("policy") == "active":
        relayed.operator.transition("policy", "deactivate")


@pytest.mark.parametrize(
    ("fault", "said"),
    [("silent", "image"), ("frozen", "image"), ("encoding", "encoding '32FC1'")],
    ids=["camera silent", "camera frozen: the same stamp again and again", "wrong encoding"],
)
def test_without_a_usable_image_nothing_is_inferred(faults: Faults, fault: str, said: str) -> None:
    """Hazard: zero-filled or old images that drive the arm. No action, a diagnostic that names it, the arm holds; and
    it goes on by itself when images come back."""
    faults.relay.mode = fault
    faults.wait_for_state(ours.SafetyStatus.HOLDING)
    faults.wait_for_rest()
    count = len(faults.actions)
    faults.running.wait("a diagnostic", lambda: said in faults.diagnostics["policy"], 10)
    assert len(faults.actions) == count
    faults.relay.mode = "pass"
    faults.wait_for_motion()
    faults.wait_for_state(ours.SafetyStatus.ACTIVE)


def test_killed_policy(relayed: Running, faults: Faults) -> None:
    """Hazard: the policy dies in mid-motion. The filter holds the arm; a new policy process goes on."""
    relayed.nodes["policy"].send_signal(signal.SIGKILL)
    relayed.nodes["policy"].wait()
    faults.wait_for_state(ours.SafetyStatus.HOLDING)
    faults.wait_for_rest()
    heard = faults.heard["policy"]
    relayed.nodes.start("policy")
    # Until the new process is heard, its services may be answered by nobody: the dead one is not yet forgotten.
    relayed.wait("the new policy", lambda: faults.heard["policy"] >= heard + 2, 60)
    relayed.operator.transition("policy", "configure", 60)
    relayed.activate("non_blocking")
    faults.wait_for_motion()
    faults.wait_for_state(ours.SafetyStatus.ACTIVE)


def test_killed_filter(relayed: Running, faults: Faults) -> None:
    """Hazard: the safety filter dies and the driver goes on with what it has. The driver holds by itself."""
    relayed.nodes["safety_filter"].send_signal(signal.SIGKILL)
    relayed.nodes["safety_filter"].wait()
    count = len(faults.actions)
    relayed.operator.wait_for("an action after its death", lambda: len(faults.actions) >= count + 2, 10)
    faults.wait_for_rest()
    sequence, count = faults.arm.command_sequence, len(faults.actions)
    relayed.operator.wait_for("more actions, unheard", lambda: len(faults.actions) >= count + 3, 10)
    assert faults.arm.command_sequence == sequence
    relayed.nodes.start("safety_filter")
    relayed.wait("motion again", lambda: faults.status.state == ours.SafetyStatus.ACTIVE, 30)


def test_no_process_survives_its_parent(tmp_path: Path) -> None:
    """Hazard: an orphan policy that goes on driving the arm after the terminal was closed or the demo was killed."""
    import subprocess
    import sys

    from graph_harness import reserved_domain

    with reserved_domain() as domain:
        command = [sys.executable, "-m", "openvla_ros.cli.main", "demo", "--seconds", "60", "--domain", str(domain)]
        for number in (signal.SIGINT, signal.SIGKILL):
            process = subprocess.Popen([*command, "--output", str(tmp_path)], cwd="/", stdout=subprocess.PIPE)
            try:
                deadline = threading.Event()
                while len(node_processes(domain)) < 4:
                    assert process.poll() is None
                    deadline.wait(0.05)
                found = node_processes(domain)
                process.send_signal(number)
                process.wait(20)
                for _ in range(200):
                    if not any(map(alive, found)):
                        break
                    deadline.wait(0.05)
                assert not [pid for pid in found if alive(pid)]
            finally:
                process.kill()
                process.communicate()
