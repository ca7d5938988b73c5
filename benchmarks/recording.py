"""Three 640x480 cameras at 30 Hz (83 MB/s) into a bag: messages lost and processor time, against decode-then-write.

Every variant runs the same camera process (images of the simulated scene with sensor noise, QoS of a camera: best
effort, depth 1) and one recording process, on the cores given. Lost: sent by the cameras, not in the bag.

  scripts/run.sh python benchmarks/recording.py [--seconds 10] [--cores 2]
"""

from __future__ import annotations

import argparse
import array
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _report import machine_line

CAMERAS = ("camera_1", "camera_2", "camera_3")
HZ = 30.0
SETTLE = 3.0  # [s] in which what still waits in DDS is taken
RECORDER = ["-m", "openvla_ros.nodes.recorder_node", "--ros-args", "-p", "record:=request", "-p", "min_free_gb:=0.5"]
VARIANTS = {
    # name: parameters of the recorder node, None for the naive way
    "raw, no compression": {"images": "raw", "compression": "none"},
    "raw, lz4": {"images": "raw", "compression": "lz4"},
    "raw, zstd": {"images": "raw", "compression": "zstd"},
    "JPEG 95": {"images": "jpeg"},
    "naive: decode, then write raw": None,
}


# ---- the cameras' process


def frames(count: int = 15) -> list[array.array[int]]:
    """The scene with noise of 2 grey levels, as a real sensor has; a clean rendering would compress too well."""
    import numpy as np

    from openvla_ros.robots.description import load_robot
    from openvla_ros.sim.camera import Camera
    from openvla_ros.sim.world import World

    random_numbers = np.random.default_rng(0)
    with Camera(World("blocks", load_robot("wx250s"), 0)) as camera:
        clean = camera.render().astype(np.float32)
    noisy = (clean + random_numbers.normal(0, 2, clean.shape) for _ in range(count))
    return [array.array("B", np.clip(n, 0, 255).astype(np.uint8).tobytes()) for n in noisy]


def cameras(seconds: float) -> None:
    """Says "ready" when every camera has a listener, begins on a line of input, says how many images it sent."""
    import rclpy
    from sensor_msgs.msg import Image

    from openvla_ros.ros import qos

    pictures = frames()
    rclpy.init()
    node = rclpy.create_node("cameras")
    publishers = [node.create_publisher(Image, f"{name}/image", qos.CAMERA) for name in CAMERAS]
    message = Image(height=480, width=640, step=640 * 3, encoding="rgb8")
    while not all(p.get_subscription_count() for p in publishers):
        time.sleep(0.05)
    print("ready", flush=True)
    sys.stdin.readline()
    sent, begin = 0, time.monotonic()
    while (due := begin + sent / HZ) < begin + seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        for i, publisher in enumerate(publishers):
            message.header.stamp = node.get_clock().now().to_msg()
            message.data = pictures[(sent + i) % len(pictures)]
            publisher.publish(message)
        sent += 1
    print(sent, time.monotonic() - begin, flush=True)
    sys.stdin.readline()


# ---- the naive recorder's process


def naive(folder: Path) -> None:
    """What one writes first: a callback that gets the message, serializes it and writes it, in the executor."""
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import Image
    from std_srvs.srv import Trigger

    from openvla_ros.recording.bag import BagWriter
    from openvla_ros.ros import qos

    rclpy.init()
    node = rclpy.create_node("recorder")
    bag = BagWriter(folder / "naive", "none")

    def record(topic: Any) -> Any:
        return lambda message: bag.write(topic, bytes(serialize_message(message)), time.time_ns())

    for name in CAMERAS:
        topic = bag.add_topic(f"/{name}/image", "sensor_msgs/msg/Image")
        node.create_subscription(Image, topic.name, record(topic), qos.CAMERA)

    def on_stop(_: Any, response: Any) -> Any:
        bag.close()
        response.success = True
        return response

    node.create_service(Trigger, "~/start", lambda _, response: response)
    node.create_service(Trigger, "~/stop", on_stop)
    with contextlib.suppress(ExternalShutdownException):
        rclpy.spin(node)


# ---- measuring


def cpu_seconds(pid: int) -> float:
    """Of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(parameters: dict[str, str] | None, seconds: float, folder: Path) -> dict[str, Any]:
    """One variant, in its own processes."""
    from openvla_ros.operate.operator import Operator
    from openvla_ros.recording.bag import BagReader

    this = str(Path(__file__).resolve())
    if parameters is None:
        command = [sys.executable, this, "--role", "naive", "--folder", str(folder)]
    else:
        command = [sys.executable, *RECORDER, "-p", f"episodes:={folder}"]
        command += ["-p", f"topics:=[{', '.join(f'{name}/image' for name in CAMERAS)}]"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
    source = [sys.executable, this, "--role", "cameras", "--seconds", str(seconds)]
    with (
        Operator("benchmark") as operator,
        subprocess.Popen(command, cwd="/") as recorder,
        subprocess.Popen(source, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sender,
    ):
        try:
            assert sender.stdin is not None
            assert sender.stdout is not None
            assert sender.stdout.readline() == "ready\n"
            operator.trigger("recorder/start", 30)
            before = cpu_seconds(recorder.pid)
            print(file=sender.stdin, flush=True)
            sent, lasted = map(float, sender.stdout.readline().split())
            time.sleep(SETTLE)
            operator.trigger("recorder/stop", 60)
            wait_until_written(folder)
            used = cpu_seconds(recorder.pid)
            print(file=sender.stdin, flush=True)
        finally:
            recorder.terminate()
            sender.terminate()
    (bag,) = (f for f in folder.iterdir() if f.is_dir())
    kept = Counter(r.topic for r in BagReader(bag).records())
    return {
        "sent": int(sent) * len(CAMERAS),
        "hz": sent / lasted,
        "lost": int(sent) * len(CAMERAS) - sum(kept.values()),
        "cpu": (used - before) / lasted,
        "mb": sum(f.stat().st_size for f in bag.glob("*.mcap")) / 1e6,
        "lasted": lasted,
    }


def wait_until_written(folder: Path) -> None:
    """Until the bag has its end: what waits in a queue belongs to the work as well."""
    from openvla_ros.recording.bag import BagReader

    (bag,) = (f for f in folder.iterdir() if f.is_dir())
    while not BagReader(bag).complete:
        time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each variant (default %(default)g)")
    parser.add_argument("--cores", type=int, default=2, help="that all processes share (default %(default)s)")
    parser.add_argument("--role", choices=("cameras", "naive"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == "cameras":
        cameras(args.seconds)
    elif args.role == "naive":
        naive(args.folder)
    else:
        report(args.seconds, args.cores)
    return 0


def report(seconds: float, cores: int) -> None:
    from openvla_ros.bringup.dds import local_environment

    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
    os.environ |= local_environment(random.randint(1, 101))
    print(f"{len(CAMERAS)} cameras, 640x480 rgb8 at {HZ:g} Hz for {seconds:g} s")
    print(f"{machine_line(('mcap', 'rosbags', 'numpy'))}\n")
    print("| recorder | sent | achieved Hz | lost | CPU, % of a core | bag, MB/s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, parameters in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            r = measure(parameters, seconds, Path(folder))
        lost = f"{r['lost']} ({100 * r['lost'] / r['sent']:.1f} %)"
        rate = r["mb"] / r["lasted"]
        print(f"| {name} | {r['sent']} | {r['hz']:.1f} | {lost} | {100 * r['cpu']:.0f} | {rate:.1f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
