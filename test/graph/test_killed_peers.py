"""What is killed takes nothing with it: no lock that others wait for, no port on which its successor is not heard."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from graph_harness import idle_graph, reserved_domain

from openvla_ros.bringup.dds import kernel_takes_images
from openvla_ros.bringup.processes import Processes


def test_no_safety_process_uses_shared_memory() -> None:
    """Hazard: in Fast DDS's shared memory a peer that is killed, whichever, may leave a lock behind on which filter and
    driver wait for ever; and a stop button that was started again may never be heard."""
    with reserved_domain() as domain:
        network = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
        with Processes(idle_graph().without("policy"), extra_env=network) as nodes:
            data_ports = {7400 + 250 * domain + 11 + 2 * i for i in range(8)}
            for name, shares in (("sim", not kernel_takes_images()), ("safety_filter", False), ("arm_driver", False)):
                wait_for_participant(nodes[name].pid, data_ports)
                assert ("/dev/shm/fastrtps_" in Path(f"/proc/{nodes[name].pid}/maps").read_text()) == shares, name


def wait_for_participant(pid: int, ports: set[int], timeout: float = 60.0) -> None:
    """Until a process has bound one of the UDP ``ports``."""
    deadline = time.monotonic() + timeout
    while not bound(pid) & ports:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def bound(pid: int) -> set[int]:
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(descriptor)))
        except FileNotFoundError:
            continue
    lines = [line.split() for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]]
    return {int(fields[1].partition(":")[2], 16) for fields in lines if fields[9] in sockets}
