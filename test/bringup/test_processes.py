"""Node processes: started with the parameters that were meant, ended whatever state they are in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="tests of nodes need ROS; `make test` installs it")

from graph_harness import alive, node_processes
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.context import Context
from rclpy.node import Node
from ros_nodes import own_domain, ros

from openvla_ros.bringup.graph import KILL_AFTER, NodeSpec, sim
from openvla_ros.bringup.processes import Processes, ros_arguments
from openvla_ros.errors import OpenVLAError
from openvla_ros.operate.operator import Operator

TWO = replace(sim(), nodes=tuple(n for n in sim().nodes if n.name in ("safety_filter", "arm_driver")))
ONE = TWO.without("arm_driver")


@pytest.fixture(scope="module")
def domain() -> Any:
    with own_domain() as number:
        yield number


def parsed(context: Context, spec: NodeSpec) -> dict[str, Any]:
    """The parameters that rcl reads from a node's arguments."""
    node = Node("reader", context=context, cli_args=ros_arguments(spec), use_global_arguments=False)
    try:
        return {name: p.value for name, p in node._parameter_overrides.items()}
    finally:
        node.destroy_node()


# Any text that a person may write; JSON leaves exotic control characters as they are, and YAML does not take them.
characters = st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"], include_characters="\n\t")
texts = st.text(characters, max_size=20)
values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
    texts,
    st.lists(texts, min_size=1, max_size=3),
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=3),
    st.lists(st.booleans(), min_size=1, max_size=3),
)


@pytest.fixture(scope="module")
def context(domain: int) -> Any:
    with ros(domain) as running:
        yield running.context


@settings(deadline=None)
@given(value=values)
def test_rcl_reads_what_was_meant(context: Context, value: Any) -> None:
    """Hazard: YAML makes `yes` a bool, `1e5` a number and `a: b` a map: a hub id, a folder or a keep-out box arrives as
    something else, or not at all."""
    assert parsed(context, NodeSpec("n", "n", {"group.name": value})) == {"group.name": value}


@pytest.mark.parametrize("text", ["yes", "1e5", "0x10", "null", "~", "", "a: b", "[]", "'", '"', " ", "😀", "#"])
def test_text_stays_text(context: Context, text: str) -> None:
    assert parsed(context, NodeSpec("n", "n", {"name": text})) == {"name": text}


def test_paths_and_tuples_are_what_they_look_like(context: Context) -> None:
    spec = NodeSpec("n", "n", {"folder": Path("/a b/é"), "corner": (1.0, 2.0)})
    assert parsed(context, spec) == {"folder": "/a b/é", "corner": [1.0, 2.0]}


def test_what_is_no_parameter_is_an_error() -> None:
    with pytest.raises(TypeError):
        ros_arguments(NodeSpec("n", "n", {"name": object()}))


def test_name_namespace_and_topics(domain: int) -> None:
    spec = NodeSpec("filter", "n", remappings={"image": "/camera/image_raw"})
    with ros(domain) as running:
        node = Node("reader", context=running.context, cli_args=ros_arguments(spec, "left"), use_global_arguments=False)
        assert node.get_fully_qualified_name() == "/left/filter"
        assert node.resolve_topic_name("image") == "/camera/image_raw"
        assert node.resolve_topic_name("action") == "/left/action"
        node.destroy_node()


def test_a_node_that_ends_is_reported_with_the_end_of_its_log(domain: int, tmp_path: Path) -> None:
    """Hazard: a graph without its safety filter goes on, or the only message is an exit status."""
    graph = ONE.with_parameters("safety_filter", tick_hz=1.0)
    with Processes(graph, log_dir=tmp_path / "log") as nodes:
        nodes["safety_filter"].wait(30)
        with pytest.raises(OpenVLAError) as caught:
            nodes.check()
    assert "node 'safety_filter' ended with status 2; the end of " in str(caught.value)
    assert "tick_hz: Input should be greater than or equal to 50" in str(caught.value)


def test_only_the_end_of_a_long_log_is_quoted(tmp_path: Path) -> None:
    nodes = Processes(TWO, log_dir=tmp_path)
    (tmp_path / "arm_driver.log").write_bytes(b"\xff\n" + b"".join(b"line %d\n" % i for i in range(100)))
    assert nodes.log_tail("arm_driver", lines=2).endswith("arm_driver.log:\nline 98\nline 99")
    assert Processes(TWO).log_tail("arm_driver") == ""


def test_no_process_is_left(domain: int, tmp_path: Path) -> None:
    """Hazard: a node that hangs (SIGSTOP stands for that) outlives the demo and goes on driving the arm."""
    with Processes(TWO, log_dir=tmp_path) as nodes:
        processes = [nodes[n.name] for n in TWO.nodes]
        with Operator(domain=domain) as operator:
            for node in TWO.nodes:
                operator.set_parameters(node.name, timeout=30.0, use_sim_time=False)  # it is up
        processes[0].send_signal(signal.SIGSTOP)
    assert not any(alive(p.pid) for p in processes)
    assert node_processes(domain) == []
    assert [p.returncode for p in processes] == [0, 0]  # each could put its things in order


def test_nodes_that_are_starting_are_ended_too(domain: int, tmp_path: Path) -> None:
    with Processes(TWO, log_dir=tmp_path) as nodes:
        pids = [nodes[n.name].pid for n in TWO.nodes]
        assert all(map(alive, pids))
    assert not any(map(alive, pids))


def test_what_ignores_the_signal_is_killed(domain: int, tmp_path: Path) -> None:
    """Hazard: Ctrl-C while a GPU hangs waits for ever, or leaves the node behind."""
    nodes = Processes(ONE, log_dir=tmp_path)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # inherited
    try:
        process = nodes.start("safety_filter")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    nodes.stop(timeout=0.0)
    assert process.returncode == -signal.SIGKILL
    assert not alive(process.pid)


def test_each_node_gets_its_own_patience(domain: int, tmp_path: Path) -> None:
    """Hazard: a recorder that still writes to a slow disk is killed with the node that hangs, or that one is waited for
    as long as for the recorder."""
    patient = replace(TWO.nodes[0], patience=300.0)
    hasty = replace(TWO.nodes[1], patience=-KILL_AFTER)
    nodes = Processes(replace(TWO, nodes=(patient, hasty)), log_dir=tmp_path)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # inherited: only SIGTERM and SIGKILL end them
    try:
        slow, hung = nodes.start(patient.name), nodes.start(hasty.name)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])

    def end_slow() -> None:
        hung.wait()
        slow.terminate()

    ending = threading.Thread(target=end_slow)
    ending.start()
    nodes.stop()
    ending.join()
    assert hung.returncode == -signal.SIGKILL
    assert slow.returncode != -signal.SIGKILL


def test_a_start_that_fails_half_way_ends_what_was_started(domain: int, tmp_path: Path) -> None:
    (tmp_path / "arm_driver.log").mkdir()  # its output can't be written
    nodes = Processes(TWO, log_dir=tmp_path)
    with pytest.raises(OSError, match=r"arm_driver\.log"), nodes:
        pytest.fail("entered")
    assert node_processes(domain) == []


def test_an_old_log_is_not_quoted(domain: int, tmp_path: Path) -> None:
    """Hazard: yesterday's error in today's message. A node that is started again in the same run goes on in its log."""
    log = tmp_path / "safety_filter.log"
    log.write_text("yesterday\n")
    with Processes(ONE, log_dir=tmp_path) as nodes:
        assert "yesterday" not in log.read_text()
        nodes["safety_filter"].kill()
        nodes["safety_filter"].wait()
        log.write_text("this run\n")
        nodes.start("safety_filter")
        assert log.read_text().startswith("this run\n")


UP = "import sys; from openvla_ros.cli.main import main; sys.exit(main(sys.argv[1:]))"


def test_up_ends_with_a_nodes_error(domain: int) -> None:
    """`openvla-ros up` with an argument that its node refuses: the reason, status 2, and nothing left running."""
    ended = subprocess.run(
        [sys.executable, "-c", UP, "up", "sim", "--seed", "many", "--domain", str(domain)],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "parameters of sim: seed: Input should be a valid integer" in ended.stderr
    assert "openvla-ros up: node 'sim' ended with status 2" in ended.stderr
    assert node_processes(domain) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_ends_its_nodes_when_it_is_ended(domain: int, number: signal.Signals) -> None:
    """Hazard: Ctrl-C, or `kill` on the terminal's process, leaves nodes that drive the arm."""
    process = subprocess.Popen(
        [sys.executable, "-c", UP, "up", "sim", "--domain", str(domain)],
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "ROS_DOMAIN_ID": "0"},  # the option counts
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        assert any(line.startswith("running: sim, policy, safety_filter") for line in process.stdout)
        while len(node_processes(domain)) < len(sim().nodes):  # one that is just being executed is not seen
            time.sleep(0.02)
        process.send_signal(number)
        process.stdout.read()  # closed by the last of them
        status = process.wait()
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    assert status == (130 if number == signal.SIGINT else -signal.SIGTERM)
    assert node_processes(domain) == []
