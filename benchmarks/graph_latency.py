"""What the graph adds to inference: image stamp -> command, minus inference, against as many plain rclpy hops.

Both runs get the same synthetic camera (640x480 rgb8 at 30 Hz) and the same DDS profile, one after the other. The plain
hops are processes of a few lines: image in, small message out; small message in, small message out.

    python benchmarks/graph_latency.py [--seconds 20]
"""

from __future__ import annotations

import argparse
import array
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvla_ros.msg as ours
import rclpy
from _report import machine_line
from rclpy.node import Node
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import Image

from openvla_ros.bringup.dds import local_environment
from openvla_ros.bringup.graph import sim
from openvla_ros.bringup.processes import Processes
from openvla_ros.operate.operator import Operator
from openvla_ros.operate.watcher import Watcher
from openvla_ros.recording.trace import Trace
from openvla_ros.ros import conversion, qos

HZ, WIDTH, HEIGHT = 30.0, 640, 480
CONTROL_HZ = 5.0


def camera() -> None:
    """Publishes images and, on exit, how many."""
    node = Node("camera")
    publisher = node.create_publisher(Image, "image", qos.CAMERA)
    pixels = np.random.default_rng(0).integers(0, 256, HEIGHT * WIDTH * 3, dtype=np.uint8)
    message = Image(
        encoding="rgb8", width=WIDTH, height=HEIGHT, step=WIDTH * 3, data=array.array("B", pixels.tobytes())
    )

    def publish() -> None:
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)

    node.create_timer(1.0 / HZ, publish)
    rclpy.spin(node)


def plain_policy() -> None:
    """Image in, a small message out at the control rate: a hop, and nothing else."""
    node = Node("plain_policy")
    publisher = node.create_publisher(ours.DeltaAction, "action", qos.LATEST)
    last = 0.0

    def on_image(message: Image) -> None:
        nonlocal last
        if time.monotonic() - last >= 1.0 / CONTROL_HZ - 0.005:
            last = time.monotonic()
            action = ours.DeltaAction()
            action.header.stamp = message.header.stamp
            publisher.publish(action)

    node.create_subscription(Image, "image", on_image, qos.CAMERA)
    rclpy.spin(node)


def plain_filter() -> None:
    """A small message in, a small message out."""
    node = Node("plain_filter")
    publisher = node.create_publisher(ours.SafeCommand, "command", qos.LATEST)

    def on_action(message: ours.DeltaAction) -> None:
        command = ours.SafeCommand()
        command.header.stamp = message.header.stamp
        command.decided = node.get_clock().now().to_msg()
        publisher.publish(command)

    node.create_subscription(ours.DeltaAction, "action", on_action, qos.LATEST)
    rclpy.spin(node)


ROLES = {"camera": camera, "plain_policy": plain_policy, "plain_filter": plain_filter}


@contextmanager
def roles(*names: str) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, __file__, "--role", name]) for name in names]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


class Arrivals:
    """Counts images by their stamps: how many a best-effort subscriber got of those that were sent."""

    def __init__(self, operator: Operator) -> None:
        self.stamps: list[float] = []
        operator.watch(Image, "image", qos.CAMERA, lambda m: self.stamps.append(conversion.seconds(m.header.stamp)))

    def lost(self) -> tuple[int, int]:
        """(lost, sent) between the first and the last that arrived, from the gaps between stamps."""
        gaps = np.round(np.diff(self.stamps) * HZ)
        sent = int(gaps.sum()) + 1
        return sent - len(self.stamps), sent


def measure_plain(seconds: float) -> tuple[np.ndarray, tuple[int, int]]:
    spans: list[float] = []

    def on_command(message: ours.SafeCommand) -> None:
        spans.append(conversion.seconds(message.decided) - conversion.seconds(message.header.stamp))

    with Operator("bench") as operator, roles("camera", "plain_policy", "plain_filter"):
        operator.watch(ours.SafeCommand, "command", qos.STREAM, on_command)
        operator.wait_for("the first plain hop", lambda: spans, 30)
        arrivals = Arrivals(operator)
        time.sleep(seconds)
        spans = spans[3:]
        return np.array(spans), arrivals.lost()


def measure_graph(seconds: float) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Spans of ours, with and without the wait of the newest image for the next control step."""
    graph = sim().without("recorder")
    graph = graph.with_parameters("policy", autostart=False).with_parameters("sim", camera_hz=1.0)
    nodes = tuple(replace(n, remappings={"image": "sim/image"}) if n.name == "sim" else n for n in graph.nodes)
    with ExitStack() as stack:
        log = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = stack.enter_context(Processes(replace(graph, nodes=nodes), log_dir=log))
        operator = stack.enter_context(Operator("bench"))
        stack.enter_context(roles("camera"))
        trace = start_control(operator)
        arrivals = Arrivals(operator)
        time.sleep(seconds)
        running.check()
        lost = arrivals.lost()
        operator.transition("policy", "deactivate")
    steps = [s for s in trace.steps.values() if s.span("image", "decided") is not None][3:]
    total = np.array([s.span("image", "decided") - s.span("inference_started", "inference_ended") for s in steps])
    waits = np.array([s.span("image_received", "inference_started") for s in steps])
    return total, total - waits, lost


def start_control(operator: Operator) -> Trace:
    """Non-blocking control has begun; everything from now on is in the trace."""
    watcher = Watcher(operator)
    operator.wait_for("the arm", lambda: watcher.trace.samples, 60)
    operator.transition("policy", "configure", 60)
    watcher.mode = "non_blocking"
    operator.instruct("lift the red block")
    operator.transition("policy", "activate")
    operator.wait_for("the first action", lambda: watcher.trace.steps, 30)
    return watcher.trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        rclpy.init()
        with suppress(KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
            ROLES[args.role]()
        return
    os.environ.update(local_environment(random.randint(1, 101)))
    plain, plain_lost = measure_plain(args.seconds)
    ours_total, ours_hops, ours_lost = measure_graph(args.seconds)
    base = np.percentile(plain, 50)
    table = Table(title=f"{WIDTH}x{HEIGHT} at {HZ:g} Hz, image stamp -> command, inference taken out")
    for column in ("", "n", "p50 [ms]", "p99 [ms]", "p50 / plain", "images lost"):
        table.add_column(column, justify="left" if not column else "right")
    rows = [
        ("plain rclpy hops", plain, plain_lost),
        ("the graph, hops and work", ours_hops, ours_lost),
        ("the graph, with the wait for the next step", ours_total, ours_lost),
    ]
    for name, spans, (lost, sent) in rows:
        p50, p99 = np.percentile(spans, [50, 99])
        cells = (f"{len(spans)}", f"{p50 * 1e3:.1f}", f"{p99 * 1e3:.1f}", f"{p50 / base:.2f}", f"{lost} of {sent}")
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    console.print(machine_line())


if __name__ == "__main__":
    main()
