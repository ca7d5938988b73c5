"""How a node's process begins and ends: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

# Says each thing that happens on a line of its own.
NODE = """
import sys, time
from pydantic import BaseModel, Field
from rclpy.node import Node
from openvla_ros.ros import parameters, spin

class Settings(BaseModel):
    limit: float = Field(1.0, gt=0.0)

class Thing(Node):
    def __init__(self):
        super().__init__("thing")
        print("limit", parameters.declare(self, Settings).limit, flush=True)
        self.timer = self.create_timer(0.0, self.up)

    def up(self):
        print("up", flush=True)
        self.timer.cancel()

    def close(self):
        print("closing", flush=True)
        sys.stdin.readline()
        print("closed", flush=True)

sys.exit(spin.run(Thing))
"""


class Process:
    def __init__(self, *arguments: str, **environment: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", NODE, "--ros-args", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, **environment},
        )
        self.watchdog = threading.Timer(30.0, self.popen.kill)
        self.watchdog.start()

    def read_until(self, line: str) -> None:
        assert self.popen.stdout is not None
        for said in self.popen.stdout:
            if said.strip() == line:
                return
        assert self.popen.stderr is not None
        pytest.fail(f"ended without {line!r}: {self.popen.stderr.read()}")

    def end(self) -> tuple[int, str, str]:
        """(status, rest of stdout, stderr) of a node that ends by itself."""
        out, error = self.popen.communicate("\n")
        return self.popen.returncode, out, error


@pytest.fixture
def start(domain: int) -> Iterator[type[Process]]:
    started: list[Process] = []

    class Kept(Process):
        def __init__(self, *arguments: str, **environment: str) -> None:
            super().__init__(*arguments, **environment)
            started.append(self)

    yield Kept
    for process in started:
        process.popen.kill()
        process.popen.wait()
        process.watchdog.cancel()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_node(start: type[Process], number: signal.Signals) -> None:
    """Hazard: the recorder's bag without an end, the camera left open. `ros2 launch` passes on the Ctrl-C that the
    terminal has sent already: a second signal must not cut the end short."""
    process = start()
    process.read_until("up")
    process.popen.send_signal(number)
    process.read_until("closing")
    process.popen.send_signal(signal.SIGINT)
    status, out, error = process.end()
    assert (status, out.split(), error) == (0, ["closed"], "")


LOST = """
import signal, sys
from rclpy.node import Node
from openvla_ros.ros import spin

class Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

class Thing(Node):
    def __init__(self):
        super().__init__("thing")
        self.timer = self.create_timer(0.0, self.up)

    def up(self):
        self.timer.cancel()
        Interrupted()
        print("up", flush=True)

sys.exit(spin.run(Thing))
"""


def run(script: str) -> tuple[int, str, str]:
    ended = subprocess.run([sys.executable, "-c", script], cwd="/", capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout, ended.stderr


def test_a_signal_that_python_loses_ends_the_node(domain: int) -> None:
    """Hazard: Ctrl-C in the wrong moment, and the node goes on until it is killed, its bag without an end."""
    assert run(LOST) == (0, "up\n", "")


WITHIN = """
import queue, signal, sys
from rclpy.node import Node
from openvla_ros.ros import spin

class Thing(Node):
    def __init__(self):
        super().__init__("thing")
        self.timer = self.create_timer(0.0, self.up)

    def up(self):
        signal.raise_signal(signal.SIGINT)
        print("callback ends", flush=True)
        self.timer.cancel()
        if sys.argv[-1] == "waits":
            queue.SimpleQueue().get()

    def close(self):
        print("closed", flush=True)

sys.argv.append({how!r})
sys.exit(spin.run(Thing))
"""


@pytest.mark.parametrize("how", ["returns", "waits"])
def test_a_callback_is_not_cut_short_unless_it_waits_for_ever(domain: int, how: str) -> None:
    """Hazard: the exception of a signal, in the middle of a callback, leaves a recording that nobody ends any more; or
    Ctrl-C does nothing while a callback waits for a model that never comes."""
    assert run(WITHIN.format(how=how)) == (0, "callback ends\nclosed\n", "")


THREADS = """
import signal, sys, threading, time
import torch
from rclpy.node import Node
from openvla_ros.ros import spin

class Thing(Node):
    def __init__(self):
        super().__init__("thing")
        self.in_c = threading.Event()
        threading.Thread(target=self.work, daemon=True).start()
        self.in_c.wait()
        self.timer = self.create_timer(0.0, self.up)

    def work(self):
        busy = torch.zeros(300000)
        while True:
            busy.sin()
            self.in_c.set()

    def up(self):
        {do}

    def close(self):
        print("closed")

sys.exit(spin.run(Thing))
"""


@pytest.mark.parametrize(
    ("do", "status", "said"),
    [("signal.raise_signal(signal.SIGTERM)", 0, ""), ("1 / 0", 1, "ZeroDivisionError: division by zero\n")],
)
def test_a_thread_in_native_code_does_not_abort_the_end(domain: int, do: str, status: int, said: str) -> None:
    """Hazard: `terminate called without an active exception`, a core dump and status -6, because Python ends under a
    thread that is in C++ code: a model that loads, an inference, a camera that draws."""
    got, out, error = run(THREADS.format(do=do))
    assert (got, out) == (status, "closed\n"), error
    assert error.endswith(said)
    assert ("Traceback" in error) == bool(said)
    assert "terminate" not in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_leaves_no_traceback(domain: int, number: signal.Signals) -> None:
    """Hazard: pages of a traceback for a Ctrl-C just after the start hide what was wrong."""
    command = [sys.executable, "-X", "importtime", "-m", "openvla_ros.nodes.sim_node"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/")
    watchdog = threading.Timer(30.0, process.kill)
    watchdog.start()
    assert process.stderr is not None
    assert any(line.endswith(" openvla_ros.nodes\n") for line in process.stderr)  # of the many imports the first
    process.send_signal(number)
    rest = process.stderr.read()
    status = process.wait()
    watchdog.cancel()
    assert (status, "Traceback" in rest) == (0, False)
    assert "mujoco" not in rest  # it was still importing


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-p", "limit:=-1.0"], "error: parameters of thing: limit: Input should be greater than 0"),
        (["-p", "limt:=0.5"], "error: parameters of thing: no 'limt' (did you mean limit?)"),
        (["-p", "limit:=[1, 2.5]"], "error: the ROS arguments or a parameter file can't be read: "),
    ],
)
def test_a_wrong_configuration_is_said_in_one_line(start: type[Process], arguments: list[str], said: str) -> None:
    """Hazard: a traceback that nobody reads, or a node that goes on with a default."""
    status, out, error = start(*arguments).end()
    assert status == 2
    assert error.splitlines()[-1].startswith(said)
    assert "Traceback" not in error
    assert "up" not in out


def test_a_malformed_parameter_file_is_named(start: type[Process], tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("thing:\n  ros__parameters:\n   limit: [1.0\n")
    status, _, error = start("--params-file", str(file)).end()
    assert status == 2
    assert str(file) in error
    assert "Traceback" not in error


def test_a_node_whose_parent_has_ended_does_not_start(start: type[Process]) -> None:
    """Hazard: an orphan that drives the arm. Its parent is named, in case that ended before the node asked for a signal
    on its death."""
    status, out, _ = start(OPENVLA_ROS_PARENT_PID="1").end()
    assert (status, out) == (1, "")
