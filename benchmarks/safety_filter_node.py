"""Filter and driver as processes: how soon does an e-stop become a hold, and do their timers keep time?

The real nodes with the arm rules of the WidowX 250 S; joint states at 100 Hz and actions come from here. Beside them
run none, one and two processes that do nothing but keep a core busy. In turn, the nodes run without
and with the priority that the system grants them (docs/install.md). Times are from before e_stop is published to when
the answer is taken, both in this process; it asks for a higher priority still, so that its own delay is not what is
measured.

    filter  the filter alone, each press ends a motion: until HOLD comes on `command`
    driver  the driver alone, at rest: until the hold comes as a trajectory for the arm's controller
    both    each press ends a motion: until that trajectory, whoever of the two was first

    python benchmarks/safety_filter_node.py [--presses 200] [--rounds 2] [--loads 0 1 2] [--setups filter driver both]
        [--ways without with]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import openvla_ros.msg as ours
from _report import machine_line
from geometry_msgs.msg import Vector3
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.bringup.dds import local_environment
from openvla_ros.nodes.arm_driver_node import ArmDriverNode
from openvla_ros.nodes.safety_filter_node import SafetyFilterNode
from openvla_ros.operate.operator import Operator
from openvla_ros.robots.arm_model import ArmModel
from openvla_ros.robots.description import load_robot
from openvla_ros.ros import conversion, priority, qos, spin, timers
from openvla_ros.types import ArmState

TICK_HZ = 250.0  # of the filter's timer
LOADS = (0, 1, 2)  # busy processes
WAYS = ("without", "with")
SETUPS = {"filter": ("filter",), "driver": ("driver",), "both": ("filter", "driver")}  # the nodes of each


def filter_process(result: Path) -> int:
    """The node, which says at its end when its timer ran."""
    times: list[float] = []

    class Timed(SafetyFilterNode):
        def _on_timer(self) -> None:
            times.append(time.monotonic())
            super()._on_timer()

    status = spin.run(Timed, realtime=priority.FILTER)
    result.write_text(json.dumps(np.diff(times[int(TICK_HZ) :]).tolist()))  # without the first second
    return status


class Arm:
    """An arm at its start pose that says so at 100 Hz, and somebody who asks it to move and presses the button."""

    def __init__(self, operator: Operator, setup: str) -> None:
        self._robot = load_robot("wx250s")
        self._operator = operator
        self._setup = setup
        start = self._robot.pose("start")
        state = ArmState(0.0, ArmModel(self._robot).forward(start), np.zeros(3), np.zeros(3), start, np.zeros(6), 1.0)
        joints = conversion.joint_state_msg(self._robot.joint_names, state)
        self._state = ours.ArmState(end_effector=conversion.pose_msg(state.pose), joints=joints, gripper=1.0)
        fingers = self._robot.gripper.fingers
        self._joints = JointState(
            name=[*joints.name, *(f.name for f in fingers)],
            position=[*joints.position, *(f.open for f in fingers)],
            velocity=[0.0] * (len(joints.name) + len(fingers)),
        )
        create = operator.node.create_publisher
        self._states = create(ours.ArmState, "arm_state", qos.LATEST) if setup == "filter" else None
        self._joint_states = create(JointState, self._robot.interface.joint_states_topic, qos.STREAM)
        self._action = create(ours.DeltaAction, "action", qos.LATEST)
        self._sequence = self.moves = self.trajectories = 0
        self.answered = 0.0  # when the hold came last
        self.pressed = False
        self.is_driver_heard, self.is_filter_heard = setup == "filter", setup == "driver"
        if setup != "driver":
            operator.watch(ours.SafeCommand, "command", qos.STREAM, self._on_command)
            operator.watch(ours.SafetyStatus, "safety_status", qos.STATUS, self._on_status)
        if setup != "filter":
            operator.watch(JointTrajectory, self._robot.interface.arm_topic, qos.STREAM, self._on_trajectory)
            operator.watch(ours.ArmState, "arm_state", qos.LATEST, lambda _: setattr(self, "is_driver_heard", True))
        timers.every(operator.node, 0.01, self._report)

    def _report(self) -> None:
        stamp = conversion.time_msg(self._operator.now())
        if self._states is not None:
            self._state.header.stamp = stamp
            self._states.publish(self._state)
        else:
            self._joints.header.stamp = stamp
            self._joint_states.publish(self._joints)

    def _on_command(self, message: ours.SafeCommand) -> None:
        if message.kind == ours.SafeCommand.HOLD:
            if self._setup == "filter":
                self.answered = time.monotonic()
        else:
            self.moves += 1

    def _on_trajectory(self, _: JointTrajectory) -> None:
        self.trajectories += 1
        self.answered = time.monotonic()

    def _on_status(self, message: ours.SafetyStatus) -> None:
        self.pressed = message.stop_pressed
        self.is_filter_heard = True

    def wait_for_nodes(self) -> None:
        self._operator.wait_for("the nodes", lambda: self.is_driver_heard and self.is_filter_heard, 60)

    def move(self) -> None:
        """One action that passes, and has become a trajectory where there is a driver."""
        if self._setup == "driver":
            return
        moves, trajectories = self.moves, self.trajectories
        while self.moves == moves or (self._setup == "both" and self.trajectories == trajectories):
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
        self._operator.wait_for("a hold", lambda: self.answered >= begin, 10)
        return self.answered - begin

    def re_arm(self) -> None:
        self._operator.e_stop(False)
        if self._setup == "driver":
            time.sleep(0.02)
            return
        self._operator.wait_for("the release", lambda: not self.pressed, 10)
        while not self._operator.trigger("safety_filter/reset", 20)[0]:
            time.sleep(0.02)


@contextmanager
def running(commands: list[list[str]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end with this; of their own sessions, as bringup starts nodes."""
    started = [subprocess.Popen(command, start_new_session=True) for command in commands]
    try:
        yield started
    finally:
        for process in started:
            process.terminate()
            process.wait()


@dataclass
class Row:
    """What was measured: [s] from each press to the hold, and [s] between the ticks of the filter's timer."""

    taken: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def text(self) -> str:
        columns = [f"{v * 1e3:8.2f}" for v in np.percentile(self.taken, [50, 99, 100])]
        if self.gaps:
            gaps = np.array(self.gaps)
            due = gaps.sum() * TICK_HZ
            columns += [f"{due:8.0f}{due - len(gaps):8.0f}{(gaps > 2 / TICK_HZ).sum():8d}"]
            columns += [f"{v * 1e3:8.2f}" for v in np.percentile(gaps, [50, 99, 100])]
        return "".join(columns)


def measure(row: Row, setup: str, load: int, way: str, presses: int, precise: bool) -> None:
    """``way``: one of WAYS; ``precise``: with priority for this process too."""
    with TemporaryDirectory() as folder:
        result = Path(folder) / "gaps.json"
        busy = [[sys.executable, "-c", "while True: pass"]] * load
        nodes = [node_command(name, way, result) for name in SETUPS[setup]]
        rng = random.Random(0)
        with running(busy), running(nodes), Operator() as operator, taking_priority(precise):
            arm = Arm(operator, setup)
            arm.wait_for_nodes()
            for _ in range(presses):
                arm.re_arm()
                arm.move()
                time.sleep(rng.uniform(0.0, 0.02))
                row.taken.append(arm.press())
        if result.exists():
            row.gaps += json.loads(result.read_text())


def node_command(name: str, way: str, result: Path) -> list[str]:
    parameters: dict[str, object] = {"robot": "wx250s"}
    if way == "without":
        parameters["realtime.priority"] = 0
    if name == "filter":
        parameters |= {"tick_hz": TICK_HZ, "rate.min_interval_s": 0.001}
    arguments = [word for key, value in parameters.items() for word in ("-p", f"{key}:={value}")]
    arguments += ["--log-level", "error"]
    return [sys.executable, __file__, "--role", name, str(result), "--ros-args", *arguments]


@contextmanager
def taking_priority(precise: bool) -> Iterator[None]:
    """For all threads there are now, and those that they start; not for processes that are started afterwards."""
    if precise:
        priority.ask(priority.threads(), 2 * priority.DRIVER)
    yield
    for thread in priority.threads():
        os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presses", type=int, default=200, help="of the e-stop, for each row")
    parser.add_argument("--rounds", type=int, default=2, help="in which the ways take turns")
    parser.add_argument("--loads", type=int, nargs="+", default=LOADS, help="busy processes")
    parser.add_argument("--setups", nargs="+", choices=list(SETUPS), default=list(SETUPS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--plain", action="store_true", help="no priority for this process, which measures")
    options = parser.parse_args()
    os.environ |= local_environment(random.SystemRandom().randint(1, 101))
    print(machine_line(("numpy", "mujoco", "rclpy")))
    print(f"with: {answer_to_a_child()}")
    print(f"\n{'':22}{'e-stop to hold [ms]':>24}{f'timer at {TICK_HZ:.0f} Hz: ticks and gaps [ms]':>48}")
    names = ("p50", "p99", "max", "due", "missing", "late", "p50", "p99", "max")
    print(f"{'':8}{'busy':<5}{'':9}" + "".join(f"{name:>8}" for name in names) + f"{'load':>8}")
    for setup in options.setups:
        for load in options.loads:
            rows = {way: Row() for way in options.ways}
            for _ in range(options.rounds):
                for way, row in rows.items():
                    measure(row, setup, load, way, options.presses // options.rounds, not options.plain)
            for way, row in rows.items():
                text = f"{setup:8}{load:<5}{way:<9}{row.text()}"
                print(f"{text:<94}{os.getloadavg()[0]:8.1f}", flush=True)


def answer_to_a_child() -> str:
    """What the system says to a process that asks, and ends."""
    asking = (
        f"from openvla_ros.ros import priority as p; a = p.ask(p.threads(), {priority.FILTER}); print(a.got, a.missing)"
    )
    return subprocess.check_output([sys.executable, "-c", asking], text=True).strip()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--role"]:
        name, result = sys.argv[2:4]
        sys.exit(
            filter_process(Path(result)) if name == "filter" else spin.run(ArmDriverNode, realtime=priority.DRIVER)
        )
    main()
