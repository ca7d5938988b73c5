"""Runs real node processes on real DDS, each module in a ROS domain of its own."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray

from openvla_ros.bringup.dds import local_environment
from openvla_ros.bringup.graph import GraphSpec, sim
from openvla_ros.bringup.processes import Processes
from openvla_ros.errors import OpenVLAError
from openvla_ros.operate.operator import Operator
from openvla_ros.operate.stage import Stage
from openvla_ros.operate.watcher import Watcher
from openvla_ros.ros import qos

START_TIMEOUT = 90.0


@contextmanager
def reserved_domain() -> Iterator[int]:
    """A ROS domain that no other test run on this machine uses meanwhile, held by a file lock.

    Up to 101: ports of higher domains lie in Linux's range of ephemeral ports.
    """
    for domain in range(20, 102):
        lock = Path(tempfile.gettempdir(), f"openvla_ros-test-domain-{domain}.lock")
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        try:
            yield domain
        finally:
            os.close(descriptor)
        return
    raise RuntimeError("every ROS domain from 20 to 101 is taken by other test runs")


@dataclass
class Running:
    """A graph in its domain, with somebody to operate and watch it."""

    graph: GraphSpec
    nodes: Processes
    stage: Stage
    domain: int
    log_dir: Path
    said: dict[str, str] = field(default_factory=dict)  # the last diagnostic by node

    def __post_init__(self) -> None:
        self.operator.watch(DiagnosticArray, "/diagnostics", qos.STREAM, self._on_diagnostics)

    @property
    def operator(self) -> Operator:
        return self.stage.operator

    @property
    def watcher(self) -> Watcher:
        return self.stage.watcher

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = ", ".join(f"{v.key} {v.value}" for v in status.values)
            self.said[status.name] = f"{status.message} ({values})"

    def wait(self, what: str, condition: Callable[[], bool], timeout: float = 20.0) -> None:
        """Wait for messages that make ``condition`` true; a node that has ended fails the test with its log."""
        with self._logs_on_failure():
            self.stage.wait(what, condition, timeout)

    @contextmanager
    def _logs_on_failure(self) -> Iterator[None]:
        try:
            yield
        except OpenVLAError as error:
            logs = "".join(self.nodes.log_tail(node.name) for node in self.graph.nodes)
            raise OpenVLAError(f"{error}; diagnostics: {self.said}{logs}") from error

    def start_afresh(self) -> None:
        """Arm in its start pose, another scene, and a filter whose target is the measured pose."""
        with self._logs_on_failure():
            self.stage.stop_in_scene()
        done, why = self.operator.trigger("safety_filter/reset")
        assert done, why

    def activate(self, mode: str, instruction: str = "lift the red block") -> None:
        """Control starts in ``mode``."""
        if self.operator.lifecycle_state("policy") == "active":
            self.operator.transition("policy", "deactivate")
        self.operator.set_parameters("policy", mode=mode)
        self.watcher.mode = mode
        self.operator.instruct(instruction)
        self.operator.transition("policy", "activate")


@contextmanager
def run_graph(graph: GraphSpec, log_dir: Path, autoconfigure: bool = True) -> Iterator[Running]:
    """Start ``graph`` and wait until camera, arm and model are there. Nothing of it survives the context."""
    with ExitStack() as stack:
        domain = stack.enter_context(reserved_domain())
        for name, value in local_environment(domain).items():
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv(name, value)
        nodes = stack.enter_context(Processes(graph, log_dir=log_dir))
        operator = stack.enter_context(Operator(domain=domain))
        running = Running(graph, nodes, Stage(nodes, operator), domain, log_dir)
        running.wait("the first arm state", lambda: bool(running.watcher.trace.samples), START_TIMEOUT)
        if autoconfigure:
            operator.transition("policy", "configure", START_TIMEOUT)
        yield running


def idle_graph() -> GraphSpec:
    """The simulated graph with a policy that waits to be configured and activated, and nothing recorded."""
    return sim().with_parameters("policy", autostart=False).without("recorder")


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def node_processes(domain: int) -> list[int]:
    """Every process of ours in a ROS domain, found by its environment."""
    wanted = f"ROS_DOMAIN_ID={domain}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environ = (entry / "environ").read_bytes().split(b"\0")
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if wanted in environ and b"openvla_ros.nodes." in command and alive(int(entry.name)):
                found.append(int(entry.name))
    return found
