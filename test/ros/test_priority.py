"""Real-time priority for a node: granted, refused, given back. Real processes, what the kernel says of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from rights import renounce_priority

# Says what its threads run with and what is on /diagnostics, and ends. One thread was there before the node.
NODE = """
import gc, json, os, signal, sys, threading, time
before = threading.Thread(target=threading.Event().wait, daemon=True)
before.start()
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.parameter import Parameter
from openvla_ros.ros import priority, spin

def kind(thread):
    names = {os.SCHED_OTHER: "normal", os.SCHED_FIFO: "fifo"}
    return [names[os.sched_getscheduler(thread)], os.sched_getparam(thread).sched_priority]

class Thing(Node):
    def __init__(self):
        super().__init__("thing")
        self.create_subscription(DiagnosticArray, "/diagnostics", self.hear, 10)
        self.timer = self.create_timer(0.0, self.up)

    def up(self):
        self.timer.cancel()
        work(self)

    def hear(self, message):
        status = message.status[0]
        if status.name != "thing: realtime" or status.message == "starting":
            return
        own = [kind(t) for t in priority.threads() - others]
        tell(self, status, own)
        signal.raise_signal(signal.SIGINT)

def work(node):
    pass

def tell(node, status, own):
    result = node.set_parameters([Parameter("realtime.priority", value=1)])[0]
    print(json.dumps({
        "own": own, "main": kind(os.getpid()), "before": kind(before.native_id), "level": status.level[0],
        "cpus": sorted(os.sched_getaffinity(0)), "said": status.message, "frozen": gc.get_freeze_count(),
        "live": [result.successful, result.reason],
    }), flush=True)

others = priority.threads() - {os.getpid()}
"""
RUN = "sys.exit(spin.run(Thing, realtime=10))\n"

_ASK = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))"
is_granted = subprocess.run([sys.executable, "-c", _ASK], check=False, capture_output=True).returncode == 0
granted = pytest.mark.skipif(not is_granted, reason="this system grants no real-time priority: docs/install.md")


def run(*parameters: str, refused: bool = False, extra: str = "") -> tuple[int, dict[str, Any], str]:
    """(status, what the node told, stderr)."""
    arguments = [word for p in parameters for word in ("-p", p)]
    ended = subprocess.run(
        [sys.executable, "-c", NODE + extra + RUN, "--ros-args", *arguments],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=renounce_priority if refused else None,
    )
    return ended.returncode, json.loads(ended.stdout or "{}"), ended.stderr


@granted
def test_the_nodes_own_threads_become_real_time(domain: int) -> None:
    """Hazard: the main thread has priority and the one that receives the e-stop has not. What a library made before,
    such as BLAS's threads, which wait by computing, stays as it was."""
    status, told, error = run()
    assert status == 0
    assert len(told["own"]) > 5  # DDS's
    assert all(kind == ["fifo", 10] for kind in [told["main"], *told["own"]])
    assert told["before"] == ["normal", 0]
    assert "real-time priority 10" in told["said"]
    assert told["level"] == 0
    assert error.count("real-time priority 10") == 1
    assert told["frozen"] > 10_000  # objects that the garbage collector looks at no more


def test_what_is_refused_is_said_and_how_to_grant_it(domain: int) -> None:
    """Hazard: an e-stop that comes late on a busy machine, and nobody knows that the system could do better."""
    status, told, error = run("realtime.priority:=7", refused=True)
    assert status == 0
    assert all(kind == ["normal", 0] for kind in [told["main"], *told["own"]])
    assert told["level"] == 1
    for said in (told["said"], error):
        assert "this process may have 0, not 7" in said
        assert "rtprio 7' | sudo tee /etc/security/limits.d/" in said
        assert "LimitRTPRIO=7" in said
        assert "--ulimit rtprio=7" in said
        assert "normal priority" in said
    assert error.count("no real-time priority") == 1


def test_none_is_asked_for_with_0(domain: int) -> None:
    status, told, error = run("realtime.priority:=0")
    assert (status, told["main"], told["level"], error) == (0, ["normal", 0], 0, "")


def test_a_cpu_of_its_own(domain: int) -> None:
    cpu = max(os.sched_getaffinity(0))
    status, told, _ = run(f"realtime.cpus:=[{cpu}]", "realtime.priority:=0")
    assert (status, told["cpus"], told["level"]) == (0, [cpu], 0)
    assert f"on CPU {cpu} alone" in told["said"]


def test_a_cpu_that_is_not_to_be_had_is_said(domain: int) -> None:
    """Hazard: the file of another machine names a CPU that is not there: the arm works, and a person is told."""
    status, told, error = run("realtime.cpus:=[4095]", "realtime.priority:=0")
    assert (status, told["level"]) == (0, 1)
    assert set(told["cpus"]) == os.sched_getaffinity(0)
    assert "not on CPU 4095 alone: this process may run on" in told["said"]
    assert error.count("not on CPU 4095") == 1


@pytest.mark.parametrize("wrong", ["realtime.priority:=99", "realtime.priority:=-1", "realtime.cpus:=[-1]"])
def test_a_wrong_parameter_refuses_to_start(domain: int, wrong: str) -> None:
    status, _, error = run(wrong)
    assert status == 2
    assert f"error: parameters of thing: {wrong.split(':')[0]}" in error


def test_a_change_while_it_runs_is_refused(domain: int) -> None:
    """Hazard: a parameter that says 1 where the threads have 10."""
    told = run("realtime.priority:=0")[1]
    assert told["live"][0] is False
    assert "restart it" in told["live"][1]


BUSY = """
def work(node):
    until = time.monotonic() + 30.0
    while kind(os.getpid())[0] == "fifo" and time.monotonic() < until:
        pass
    print(json.dumps({"own": [kind(t) for t in priority.threads() - others]}), flush=True)

def tell(node, status, own):
    print(status.message, file=sys.stderr)
"""


@granted
def test_a_computation_without_end_loses_its_priority(domain: int) -> None:
    """Hazard: a loop without end at real-time priority, and no shell gets through to end it."""
    extra = "priority.BUDGET = 0.2\n" + BUSY
    status, told, error = run(extra=extra)
    assert status == 0
    assert all(kind == ["normal", 0] for kind in told["own"])
    assert "computed for 0.2 s without a pause: normal priority" in error
    assert "given back: computed for 0.2 s" in error  # on /diagnostics


AGAIN = """
from openvla_ros.ros import realtime
realtime._PAUSE = 0.0
def tell(node, status, own):
    if status.level[0] == 0 and tell.was_lost:
        print(json.dumps({"main": kind(os.getpid())}), flush=True)
        os._exit(0)
    tell.was_lost = tell.was_lost or status.level[0] == 1
    if tell.was_lost is False:
        busy()
tell.was_lost = False
def busy():
    while kind(os.getpid())[0] == "fifo":
        pass
signal.raise_signal = lambda number: None
"""


@granted
def test_the_priority_comes_back(domain: int) -> None:
    """Hazard: one slow moment, and from then on an e-stop comes late for good."""
    assert run(extra="priority.BUDGET = 0.2\n" + AGAIN)[1]["main"] == ["fifo", 10]


DEAF = """
import hashlib
priority.BUDGET, priority.LAST = 0.1, 0.3
def work(node):
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@granted
def test_one_that_does_not_come_back_from_c_is_killed(domain: int) -> None:
    """Hazard: the same in a library, where no handler of ours runs. A filter that is gone is noticed by the driver."""
    assert run(extra=DEAF)[0] == -signal.SIGKILL
