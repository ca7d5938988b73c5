"""A simulated graph in control that faults are put into, and a stop watch on the arm's own stamps."""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import openvla_ros.msg as ours
from diagnostic_msgs.msg import DiagnosticArray
from graph_harness import Running, idle_graph
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, JointState

from openvla_ros.bringup.graph import GraphSpec
from openvla_ros.ros import conversion, qos

MOVING = 0.05  # rad/s of any arm joint: well above what a held arm shows, and below any motion of these tests
STILL = 0.2  # s that the arm may take to hold, once a fault has had its effect
LOADED = 0.3  # s more: on a busy machine every node is late
TICK = 0.01  # s of the simulated arm's time between two measurements
JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")


def relayed_graph() -> GraphSpec:
    """The simulated graph with relays between camera and policy, policy and filter; its filter waits for a reset."""
    graph = idle_graph().with_parameters("safety_filter", armed_at_start=False)
    graph = graph.with_parameters("policy", **{"loop.frozen_repeats": 10})
    remapped = {"sim": {"image": "camera/image"}, "policy": {"action": "policy/action"}}
    return replace(graph, nodes=tuple(replace(n, remappings=remapped.get(n.name, {})) for n in graph.nodes))


class Camera:
    """Between camera and policy: passes images on, with a sensor's noise, or damages them."""

    def __init__(self, running: Running) -> None:
        self.mode = "pass"
        self._noise = itertools.cycle(range(256))
        self._publisher = running.operator.node.create_publisher(Image, "image", qos.CAMERA)
        running.operator.watch(Image, "camera/image", qos.CAMERA, self._on_image)

    def _on_image(self, message: Image) -> None:
        if self.mode == "silent":
            return
        if self.mode == "same picture":
            message.data = self._last.data
        elif self.mode == "same stamp":
            message = self._last
        else:
            message.data[0] = next(self._noise)
        self._last = message
        if self.mode == "encoding":
            message.encoding = "32FC1"
        self._publisher.publish(message)


class Actions:
    """Between policy and filter: makes every action a broad swing from side to side, or damages it."""

    def __init__(self, running: Running) -> None:
        self.mode = "pass"
        self.sent = 0
        self.y = 0.0  # of the end effector
        self._direction = 1.0
        self._kept: deque[ours.DeltaAction] = deque()
        self._publisher = running.operator.node.create_publisher(ours.DeltaAction, "action", qos.LATEST)
        running.operator.watch(ours.DeltaAction, "policy/action", qos.LATEST, self._on_action)

    def _on_action(self, message: ours.DeltaAction) -> None:
        if self.y > 0.12:
            self._direction = -1.0
        elif self.y < -0.12:
            self._direction = 1.0
        swing = math.nan if self.mode == "nan" else 0.04 * self._direction
        message.translation.x, message.translation.y, message.translation.z = 0.0, swing, 0.0
        message.rotation.x = message.rotation.y = message.rotation.z = 0.0
        self._kept.append(message)
        # Late: three control steps, or 0.6 s.
        while len(self._kept) > (3 if self.mode == "late" else 0):
            self._publisher.publish(self._kept.popleft())
            self.sent += 1


class Bench:
    """A running graph, its relays, and everything that it says."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.camera, self.actions = Camera(running), Actions(running)
        self._camera: subprocess.Popen[bytes] | None = None
        self.arm, self.status = ours.ArmState(), ours.SafetyStatus()
        self.commands = 0
        self.statuses = 0  # heard of the filter
        self.said: dict[str, str] = {}  # by node: the reasons in its last diagnostic, status or arm state
        self.heard: dict[str, int] = {}  # by node: how many diagnostics
        self.speeds: deque[tuple[float, float]] = deque(maxlen=3000)  # stamp, fastest joint [rad/s]
        watch = running.operator.watch
        watch(JointState, "joint_states", QoSProfile(depth=1000), self._on_joints)
        watch(ours.ArmState, "arm_state", qos.LATEST, self._on_arm)
        watch(ours.SafetyStatus, "safety_status", qos.STATUS, self._on_status)
        watch(DiagnosticArray, "/diagnostics", qos.STREAM, self._on_diagnostics)
        watch(ours.SafeCommand, "command", qos.STREAM, lambda _: setattr(self, "commands", self.commands + 1))

    def _on_joints(self, message: JointState) -> None:
        fastest = max(abs(message.velocity[message.name.index(name)]) for name in JOINTS)
        self.speeds.append((conversion.seconds(message.header.stamp), fastest))

    def _on_arm(self, message: ours.ArmState) -> None:
        self.arm, self.actions.y = message, message.end_effector.position.y
        self.said["arm"] = message.detail

    def _on_status(self, message: ours.SafetyStatus) -> None:
        self.status = message
        self.statuses += 1
        self.said["status"] = "; ".join(f"{r.rule}: {r.detail}" for r in message.reports)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.said[status.name] = status.message
            self.heard[status.name] = self.heard.get(status.name, 0) + 1

    # ---- the normal course of things

    def make_sure_it_moves(self) -> None:
        """Whatever came before: all nodes run, the policy controls, the filter is armed, the arm swings."""
        self.camera.mode = self.actions.mode = "pass"
        for spec in self.running.graph.nodes:
            if self.running.nodes[spec.name].poll() is not None:
                self.restart(spec.name)
        if self.running.operator.lifecycle_state("policy") != "active":
            self.activate_policy()
        self.reset()
        self.wait_for_motion()

    def activate_policy(self) -> None:
        if self.running.operator.lifecycle_state("policy") == "unconfigured":
            self.running.operator.transition("policy", "configure", 60)
        self.running.activate("non_blocking")

    def reset(self, timeout: float = 15.0) -> None:
        """`~/reset`, as soon as nothing stands in the way, and `~/resume`."""
        deadline = time.monotonic() + timeout
        while not (answer := self.running.operator.trigger("safety_filter/reset"))[0]:
            assert time.monotonic() < deadline, answer[1]
            self.wait("another status", self._next_status(), 5)
        done, why = self.running.operator.trigger("safety_filter/resume")
        assert done, why

    def _next_status(self) -> object:
        before = self.status
        return lambda: self.status is not before

    def restart(self, name: str) -> None:
        """Start a node that has ended, and wait until the new process is heard: services may know the old one still."""
        heard = self.heard.get(name, 0)
        self.running.nodes.start(name)
        self.running.wait(f"the new {name}", lambda: self.heard.get(name, 0) >= heard + 2, 60)

    def wait(self, what: str, condition: object, timeout: float = 15.0) -> None:
        self.running.operator.wait_for(what, condition, timeout)

    def wait_for_motion(self, timeout: float = 30.0) -> None:
        """An arm in full swing, now: not the end of an older motion."""
        start = time.time()

        def swings() -> bool:
            return (
                bool(self.speeds)
                and self.speeds[-1][0] > start
                and self.speeds[-1][1] > 2 * MOVING
                and self.status.state == ours.SafetyStatus.ACTIVE
            )

        self.running.wait("motion", swings, timeout)

    def wait_for_state(self, state: int) -> None:
        self.wait(f"safety state {state}", lambda: self.status.state == state)

    def wait_to_hear(self, node: str, text: str) -> None:
        self.wait(f"'{text}' from {node}", lambda: text in self.said.get(node, ""))

    # ---- faults

    def _process(self, name: str) -> subprocess.Popen[bytes]:
        if name != "camera":
            return self.running.nodes[name]
        assert self._camera is not None
        return self._camera

    @contextmanager
    def own_camera(self) -> Iterator[None]:
        """Inside, the policy's images come from a process "camera"."""
        self.camera.mode = "silent"
        try:
            self.start_camera()
            self.wait_for_motion()
            yield
        finally:
            if self._camera is not None:
                self._camera.kill()
                self._camera.communicate()
                self._camera = None
            self.camera.mode = "pass"

    def start_camera(self) -> None:
        script = Path(__file__).with_name("camera.py")
        self._camera = subprocess.Popen([sys.executable, script], cwd="/", stdin=subprocess.PIPE)

    def kill(self, name: str) -> float:
        """SIGKILL, now."""
        process = self._process(name)
        process.send_signal(signal.SIGKILL)
        now = time.time()
        process.wait()
        return now

    @contextmanager
    def hung(self, name: str) -> Iterator[float]:
        """The node is stopped (SIGSTOP) inside, and goes on after."""
        process = self._process(name)
        process.send_signal(signal.SIGSTOP)
        try:
            yield time.time()
        finally:
            process.send_signal(signal.SIGCONT)

    def assert_still(self, fault: float, notice: float, watch: float = 0.6) -> None:
        """The arm holds within ``notice`` + STILL [s] of ``fault``, and ``watch`` [s] longer.

        By the arm's own clock, that of its physics, which a busy machine slows down: one measurement every TICK.
        """
        limit = notice + STILL + LOADED

        def since() -> list[float]:
            return [speed for stamp, speed in list(self.speeds) if stamp > fault]

        self.wait("the arm's own word", lambda: len(since()) * TICK > limit + watch, 60)
        moved = max((i + 1 for i, speed in enumerate(since()) if speed >= MOVING), default=0) * TICK
        print(f"held {moved * 1e3:.0f} ms after the fault, of which up to {notice * 1e3:.0f} ms to notice it")
        assert moved <= limit, f"the arm still moved {moved:.2f} s after the fault: {since()[::5]}"
