"""What a killed process leaves in Fast DDS's shared memory does not reach the process that takes its place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import rclpy
from graph_harness import idle_graph, reserved_domain
from rclpy.context import Context
from rclpy.node import Node

from openvla_ros.bringup.graph import environment
from openvla_ros.bringup.processes import Processes
from openvla_ros.nodes._shared_memory import fresh_port

MAPS = (
    "import mmap, sys; file = open(sys.argv[1], 'r+b'); held = mmap.mmap(file.fileno(), 0); print(flush=True); input()"
)


def ports(maps: Path) -> set[int]:
    return {int(port) for port in re.findall(r"/fastrtps_port(\d+)", maps.read_text())}


@contextmanager
def peer_of(memory: Path) -> Iterator[None]:
    """Inside, another process has ``memory`` open, as one that writes to a port."""
    memory.write_bytes(bytes(4096))
    with subprocess.Popen(
        [sys.executable, "-c", MAPS, memory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("left", "skipped"), [("memory", False), ("lock", True), ("deleted", True)], ids=["fine", "just killed", "replaced"]
)
def test_a_participant_takes_no_port_of_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str, skipped: bool
) -> None:
    """Hazard: a policy that was killed and started again never hears the arm or the camera: its peers go on writing
    into the memory of the port that it had before, and it took the same one."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with reserved_domain() as domain:
        first = 7400 + 250 * domain + 11
        memory = tmp_path / f"fastrtps_port{first}"
        with peer_of(memory):
            if left == "lock":
                memory.with_name(f"{memory.name}_el").touch()
            if left == "deleted":
                memory.unlink()
            context = Context()
            rclpy.init(context=context, domain_id=domain)
            with fresh_port(context):
                node = Node("anew", context=context)
            mine = ports(Path("/proc/self/maps"))
            node.destroy_node()
            context.shutdown()
    assert mine & {first, first + 2} == {first + 2 if skipped else first}


def test_a_killed_node_comes_back_on_another_port() -> None:
    """As above, with real nodes: the one that stays has the port of the killed one in its memory."""
    local = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    graph = idle_graph().without("policy", "safety_filter")
    with reserved_domain() as domain, Processes(graph, extra_env={"ROS_DOMAIN_ID": str(domain), **local}) as nodes:
        data_ports = {7400 + 250 * domain + 11 + 2 * i for i in range(8)}

        def mine(name: str) -> set[int]:
            """The UDP ports of a participant are open as long as it is."""
            return ports(Path(f"/proc/{nodes[name].pid}/maps")) & data_ports & listening(nodes[name].pid)

        wait_until(
            lambda: len(mine("sim")) == 1 and ports(Path(f"/proc/{nodes['arm_driver'].pid}/maps")) > mine("sim")
        )
        (before,) = mine("sim")
        nodes["sim"].kill()
        nodes["sim"].wait()
        nodes.start("sim")
        wait_until(lambda: len(mine("sim")) == 1)
        assert mine("sim") != {before}


def test_filter_and_driver_use_no_shared_memory() -> None:
    """Hazard: an e-stop button that was killed and started again is not heard by the filter, or the filter by the
    driver. (Where only this machine is searched for peers, rmw_fastrtps adds shared memory to every profile.)"""
    with reserved_domain() as domain:
        network = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
        with Processes(idle_graph().without("policy"), extra_env=network) as nodes:
            data_ports = {7400 + 250 * domain + 11 + 2 * i for i in range(8)}
            for name, shares in (("sim", True), ("safety_filter", False), ("arm_driver", False)):
                wait_until(lambda pid=nodes[name].pid: bool(listening(pid) & data_ports))
                assert bool(ports(Path(f"/proc/{nodes[name].pid}/maps"))) == shares, name


def listening(pid: int) -> set[int]:
    """The UDP ports that a process has bound."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(descriptor)))
        except FileNotFoundError:
            continue
    lines = [line.split() for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]]
    return {int(fields[1].partition(":")[2], 16) for fields in lines if fields[9] in sockets}


def wait_until(condition, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
