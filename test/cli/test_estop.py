"""The keyboard as an e-stop, in a terminal (a pty), on a real safety filter."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openvla_ros.msg as ours
import pytest
from ros_nodes import own_domain

from openvla_ros.bringup.graph import GraphSpec, NodeSpec
from openvla_ros.bringup.processes import Processes
from openvla_ros.errors import OpenVLAError
from openvla_ros.operate.operator import Operator
from openvla_ros.ros import qos, timers

FILTER = NodeSpec("safety_filter", "safety_filter_node", {"robot": "none", "base_frame": "base"})


class Graph:
    """A filter process, and an arm that stands still and says so."""

    def __init__(self, nodes: Processes, operator: Operator) -> None:
        self.nodes, self.operator = nodes, operator
        self.status = ours.SafetyStatus()
        self.statuses = 0
        self._arm = operator.node.create_publisher(ours.ArmState, "arm_state", qos.LATEST)
        timers.every(operator.node, 0.02, self._report)
        operator.watch(ours.SafetyStatus, "safety_status", qos.STATUS, self._on_status)

    def _report(self) -> None:
        arm = ours.ArmState()
        arm.header.stamp = self.operator.node.get_clock().now().to_msg()
        arm.end_effector.position.x, arm.end_effector.position.z = 0.25, 0.15
        arm.end_effector.orientation.y = arm.end_effector.orientation.w = 0.5**0.5
        arm.joints.position = arm.joints.velocity = [0.0, -0.8, 1.0, 0.0, 0.9, 0.0]
        self._arm.publish(arm)

    def _on_status(self, message: ours.SafetyStatus) -> None:
        self.status, self.statuses = message, self.statuses + 1

    @property
    def said(self) -> str:
        return "; ".join(f"{r.rule}: {r.detail}" for r in self.status.reports)

    def is_state(self, state: int) -> bool:
        return self.statuses > 0 and self.status.state == state

    def wait_for_state(self, state: int) -> None:
        self.operator.wait_for(f"state {state}", lambda: self.is_state(state), 10)

    def arm(self) -> None:
        """Re-armed by hand, whatever was before."""
        self.operator.e_stop(False)
        deadline = time.monotonic() + 10
        while not self.operator.trigger("safety_filter/reset")[0]:
            assert time.monotonic() < deadline, self.operator.trigger("safety_filter/reset")
        done, why = self.operator.trigger("safety_filter/resume")
        assert done, why
        self.wait_for_state(ours.SafetyStatus.HOLDING)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    log = tmp_path_factory.mktemp("log")
    with own_domain(), Processes(GraphSpec((FILTER,), {}), log_dir=log) as nodes, Operator() as operator:
        made = Graph(nodes, operator)
        operator.wait_for("the filter", lambda: nodes.check() or made.statuses, 60)
        yield made


@dataclass
class Terminal:
    """`openvla-ros estop` behind a pty: what a person types and sees."""

    process: subprocess.Popen[bytes]
    master: int
    slave: int
    before: list[Any]
    seen: str = field(default="")

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def _read(self, timeout: float) -> bool:
        if not select.select([self.master], [], [], timeout)[0]:
            return False
        self.seen += re.sub(rb"\x1b\[K|\r", b"", os.read(self.master, 4096)).decode()
        return True

    def wait_for(self, text: str, fresh: bool = True, timeout: float = 30.0) -> None:
        """Until ``text`` is on the screen; ``fresh``: from now on."""
        self.seen, deadline = "" if fresh else self.seen, time.monotonic() + timeout
        while text not in self.seen:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen[-2000:]!r}"
            self._read(0.1)

    def end(self) -> int:
        """The exit status; the terminal is as it was before."""
        deadline = time.monotonic() + 15
        while self.process.poll() is None:  # a full pty would block it
            assert time.monotonic() < deadline, self.seen
            self._read(0.05)
        assert termios.tcgetattr(self.slave) == self.before
        return self.process.returncode


@contextlib.contextmanager
def estop(*arguments: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    command = [sys.executable, "-m", "openvla_ros.cli.main", "estop", *arguments]

    def take_terminal() -> None:
        os.setsid()
        import fcntl

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C, and the hang-up, come from the controlling terminal

    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, cwd="/", preexec_fn=take_terminal, env={**os.environ}
    )
    terminal = Terminal(process, master, slave, before)
    try:
        yield terminal
    finally:
        process.kill()
        process.wait()
        for descriptor in (terminal.master, slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def test_a_key_stops_r_re_arms_q_leaves_it_stopped(graph: Graph) -> None:
    """Hazard: a keyboard e-stop that waits for Enter, that re-arms by accident, or that leaves a dead terminal."""
    graph.arm()
    with estop() as terminal:
        terminal.wait_for("HOLDING")
        terminal.type(b" ")
        graph.wait_for_state(ours.SafetyStatus.STOPPED)
        terminal.wait_for("STOPPED (pressed)")
        terminal.type(b"r")
        terminal.wait_for("PAUSED")
        assert not graph.status.stop_pressed
        terminal.type(b"g")
        terminal.wait_for("HOLDING")
        for key in (b"x", b"\x1b[A", b"\n", b"qr"):  # two keys at once are panic, whichever they are
            terminal.type(key)
            graph.wait_for_state(ours.SafetyStatus.STOPPED)
            terminal.type(b"r")
            graph.wait_for_state(ours.SafetyStatus.PAUSED)
        terminal.type(b" ")
        graph.wait_for_state(ours.SafetyStatus.STOPPED)
        terminal.type(b"q")
        assert terminal.end() == 0
        terminal.wait_for("stays stopped", fresh=False)
        assert "NOT CONFIRMED" not in terminal.seen
    graph.operator.wait_for("the release", lambda: not graph.status.stop_pressed, 5)
    assert graph.status.state == ours.SafetyStatus.STOPPED


@pytest.mark.parametrize("how", ["ctrl-c", "terminal closed"])
def test_ending_it_in_a_hurry_stops(graph: Graph, how: str) -> None:
    """Hazard: whoever hits Ctrl-C, or whose ssh connection breaks, believes that the arm has stopped."""
    graph.arm()
    with estop() as terminal:
        terminal.wait_for("HOLDING")
        if how == "ctrl-c":
            terminal.type(b"\x03")
            assert terminal.end() == 0
        else:
            os.close(terminal.slave)
            os.close(terminal.master)
            terminal.process.wait(15)
    graph.wait_for_state(ours.SafetyStatus.STOPPED)
    assert "e-stop" in graph.said


def test_termination_restores_the_terminal_and_changes_nothing(graph: Graph) -> None:
    """Hazard: a shell without echo after `kill`; an arm that stops because a watcher was closed."""
    graph.arm()
    with estop() as terminal:
        terminal.wait_for("HOLDING")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 128 + signal.SIGTERM
    count = graph.statuses
    graph.operator.wait_for("more of the filter", lambda: graph.statuses > count + 5, 5)
    assert graph.status.state == ours.SafetyStatus.HOLDING


def test_r_cannot_release_anothers_button(graph: Graph) -> None:
    """Hazard: two people, two buttons: one re-arms what the other holds down."""
    graph.arm()
    with estop() as terminal, Operator("other") as other:
        terminal.wait_for("HOLDING")
        other.e_stop(True)
        terminal.wait_for("STOPPED (pressed)")
        terminal.type(b"r")
        terminal.wait_for("still pressed")
        assert graph.status.state == ours.SafetyStatus.STOPPED


def test_a_button_that_died_pressed_is_released_on_purpose(graph: Graph) -> None:
    """Hazard: a stop button whose node died: either the arm goes on, or nobody can ever re-arm it."""
    graph.arm()
    with Operator("button") as button:
        button.e_stop(True)
        graph.wait_for_state(ours.SafetyStatus.STOPPED)
    reset = [sys.executable, "-m", "openvla_ros.cli.main", "reset"]
    refused = subprocess.run(reset, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert "still pressed" in refused.stdout
    done = subprocess.run([*reset, "--release"], cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done
    graph.wait_for_state(ours.SafetyStatus.PAUSED)


def test_the_heartbeat_ends_with_the_terminal(graph: Graph) -> None:
    """Hazard: a deadman that is satisfied by nobody."""
    graph.arm()
    assert graph.operator.trigger("safety_filter/stop")[0]
    graph.operator.set_parameters("safety_filter", deadman__timeout_s=0.5)
    try:
        done, why = graph.operator.trigger("safety_filter/reset")
        assert not done
        assert "heartbeat" in why
        with estop("--heartbeat") as terminal:
            terminal.wait_for("STOPPED")
            terminal.type(b"r")
            graph.wait_for_state(ours.SafetyStatus.PAUSED)
            count = graph.statuses
            graph.operator.wait_for("two seconds of it", lambda: graph.statuses > count + 40, 10)
            assert graph.status.state == ours.SafetyStatus.PAUSED
            terminal.type(b"q")
            assert terminal.end() == 0
        graph.wait_for_state(ours.SafetyStatus.STOPPED)
        assert "deadman" in graph.said
    finally:
        graph.operator.set_parameters("safety_filter", deadman__timeout_s=None)


def test_without_a_terminal_or_a_filter_it_says_so() -> None:
    """Hazard: a stop key that nobody listens to, and a display that looks well."""
    command = [sys.executable, "-m", "openvla_ros.cli.main", "estop"]
    piped = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert piped.returncode == 2
    assert "openvla-ros stop" in piped.stderr
    with own_domain(), estop() as terminal:
        terminal.wait_for("NO SAFETY FILTER")
        terminal.type(b" ")
        terminal.wait_for("NOT CONFIRMED")
        terminal.type(b"q")
        assert terminal.end() == 0


def test_stop_signal(graph: Graph) -> None:
    """Hazard: a script or a GPIO daemon that stops the arm must not depend on ROS' discovery, nor end the filter."""
    graph.arm()
    holds: list[ours.SafeCommand] = []
    graph.operator.watch(ours.SafeCommand, "command", qos.STREAM, holds.append)
    graph.operator.wait_for("a publisher", lambda: graph.operator.node.count_publishers("command") == 1, 5)
    graph.nodes["safety_filter"].send_signal(signal.SIGUSR1)
    graph.wait_for_state(ours.SafetyStatus.STOPPED)
    graph.operator.wait_for("a hold", lambda: any(c.kind == ours.SafeCommand.HOLD for c in holds), 5)
    assert "SIGUSR1" in graph.said
    done, why = graph.operator.trigger("safety_filter/reset")
    assert done, why
    graph.wait_for_state(ours.SafetyStatus.PAUSED)


def test_a_restarted_filter_waits_for_a_reset(graph: Graph) -> None:
    """Hazard: a stop that is forgotten because the filter's process was started again."""
    graph.arm()
    graph.nodes["safety_filter"].kill()
    graph.nodes["safety_filter"].wait()
    graph.statuses = 0
    graph.nodes.start("safety_filter")
    graph.operator.wait_for("the new filter", lambda: graph.statuses, 30)
    assert graph.status.state == ours.SafetyStatus.STOPPED
    assert "start" in graph.said
    graph.arm()


def test_logs_are_quiet(graph: Graph, tmp_path: Path) -> None:
    """Hazard: an exception in the filter that only its log shows."""
    assert "Traceback" not in graph.nodes.log_tail("safety_filter", 1000)
    with pytest.raises(OpenVLAError, match="vain"):
        graph.operator.wait_for("nothing", lambda: False, 0.01)
