"""The safety filter's process: does its 250 Hz timer keep time, and how soon does an e-stop become a hold?

The real node with the arm rules of the WidowX 250 S; joint states at 100 Hz and actions come from here. Each press ends
a motion; from before e_stop is published to when the HOLD is taken from `command`, both in this process. Beside it run
none, one and two processes that do nothing but keep a core busy.

    python benchmarks/safety_filter_node.py [--presses 200]
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import openvla_ros.msg as ours
from _report import machine_line
from geometry_msgs.msg import Vector3

from openvla_ros.bringup.dds import local_environment
from openvla_ros.nodes.safety_filter_node import SafetyFilterNode
from openvla_ros.operate.operator import Operator
from openvla_ros.robots.arm_model import ArmModel
from openvla_ros.robots.description import load_robot
from openvla_ros.ros import conversion, qos, spin, timers
from openvla_ros.types import ArmState

TICK_HZ = 250.0
LOADS = (0, 1, 2)  # busy processes


def filter_process() -> int:
    """The node, which says at its end when its timer ran: how many times, and how far apart [ms]."""
    times: list[float] = []

    class Timed(SafetyFilterNode):
        def _on_timer(self) -> None:
            times.append(time.monotonic())
            super()._on_timer()

    status = spin.run(Timed)
    gaps = np.diff(times[int(TICK_HZ) :])  # without the first second
    due = gaps.sum() * TICK_HZ
    p50, p99, most = np.percentile(gaps, [50, 99, 100]) * 1e3
    late = (gaps > 2 / TICK_HZ).sum()
    print(f"{due:9.0f}{due - len(gaps):9.0f}{late:9d}{p50:9.2f}{p99:9.2f}{most:9.2f}", flush=True)
    return status


class Arm:
    """An arm at its start pose that says so at 100 Hz, and somebody who asks it to move."""

    def __init__(self, operator: Operator) -> None:
        robot = load_robot("wx250s")
        start = robot.pose("start")
        state = ArmState(0.0, ArmModel(robot).forward(start), np.zeros(3), np.zeros(3), start, np.zeros(6), 1.0)
        self._operator = operator
        self._message = ours.ArmState(
            end_effector=conversion.pose_msg(state.pose),
            joints=conversion.joint_state_msg(robot.joint_names, state),
            gripper=1.0,
        )
        self._state = operator.node.create_publisher(ours.ArmState, "arm_state", qos.LATEST)
        self._action = operator.node.create_publisher(ours.DeltaAction, "action", qos.LATEST)
        self._sequence = 0
        self.moves = 0
        self.held = 0.0  # when a HOLD came last
        self.pressed = False
        self.is_heard = False  # the filter
        operator.watch(ours.SafeCommand, "command", qos.STREAM, self._on_command)
        operator.watch(ours.SafetyStatus, "safety_status", qos.STATUS, self._on_status)
        timers.every(operator.node, 0.01, self._report)

    def _report(self) -> None:
        self._message.header.stamp = conversion.time_msg(self._operator.now())
        self._state.publish(self._message)

    def _on_command(self, message: ours.SafeCommand) -> None:
        if message.kind == ours.SafeCommand.HOLD:
            self.held = time.monotonic()
        else:
            self.moves += 1

    def _on_status(self, message: ours.SafetyStatus) -> None:
        self.pressed = message.stop_pressed
        self.is_heard = True

    def move(self) -> None:
        """One action that passes."""
        moves = self.moves
        while self.moves == moves:
            self._sequence += 1
            now = conversion.time_msg(self._operator.now())
            action = ours.DeltaAction(sequence=self._sequence, translation=Vector3(y=0.01), gripper=1.0)
            action.header.stamp = action.inference_ended = now
            action.duration = conversion.duration_msg(0.2)
            self._action.publish(action)
            time.sleep(0.03)

    def press(self) -> float:
        """[s] from a press to the hold."""
        begin = time.monotonic()
        self._operator.e_stop(True)
        self._operator.wait_for("a hold", lambda: self.held >= begin, 10)
        return self.held - begin

    def re_arm(self) -> None:
        self._operator.e_stop(False)
        self._operator.wait_for("the release", lambda: not self.pressed, 10)
        while not self._operator.trigger("safety_filter/reset", 20)[0]:
            time.sleep(0.02)


@contextmanager
def running(*commands: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end with this."""
    started = [subprocess.Popen(command) for command in commands]
    try:
        yield started
    finally:
        for process in started:
            process.terminate()
            process.wait()


def measure(load: int, presses: int) -> None:
    """One row, the second half of which the filter prints as it ends."""
    parameters = {"tick_hz": TICK_HZ, "robot": "wx250s", "rate.min_interval_s": 0.001}
    arguments = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    busy = [[sys.executable, "-c", "while True: pass"]] * load
    node = [sys.executable, __file__, "--role", "filter", "--ros-args", *arguments]
    rng = random.Random(0)
    with running(*busy), running(node), Operator() as operator:
        arm = Arm(operator)
        operator.wait_for("the filter", lambda: arm.is_heard, 60)
        taken = []
        for _ in range(presses):
            arm.re_arm()
            arm.move()
            time.sleep(rng.uniform(0.0, 0.02))
            taken.append(arm.press())
        p50, p99, most = np.percentile(taken, [50, 99, 100]) * 1e3
        print(f"{load:<6}{p50:9.2f}{p99:9.2f}{most:9.2f}", end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presses", type=int, default=200, help="of the e-stop, for each load")
    presses = parser.parse_args().presses
    os.environ |= local_environment(random.SystemRandom().randint(1, 101))
    print(machine_line(("numpy", "mujoco", "rclpy")))
    print(f"{'':6}{'e-stop to hold [ms]':>27}{f'timer at {TICK_HZ:.0f} Hz: ticks and gaps [ms]':>54}")
    names = ("p50", "p99", "max", "due", "missing", "late", "p50", "p99", "max")
    print(f"{'busy':<6}" + "".join(f"{name:>9}" for name in names))
    for load in LOADS:
        measure(load, presses)


if __name__ == "__main__":
    if sys.argv[1:3] == ["--role", "filter"]:
        sys.exit(filter_process())
    main()
