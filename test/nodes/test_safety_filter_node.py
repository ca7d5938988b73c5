"""The safety filter as a process: its start-up checks, what it says to a driver that refuses, what RViz gets."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import openvla_ros.msg as ours
import pytest
from geometry_msgs.msg import Vector3
from ros_nodes import Ros, ros
from safety_arm import parts
from std_msgs.msg import Empty
from visualization_msgs.msg import Marker, MarkerArray

from openvla_ros.control.safety import SafetyConfig
from openvla_ros.ros import conversion, qos
from openvla_ros.ros.markers import safety_markers
from openvla_ros.types import ArmState, Pose

ROBOT, MODEL, _ = parts("wx250s")
START = ROBOT.pose("start")
MODULE = [sys.executable, "-m", "openvla_ros.nodes.safety_filter_node", "--ros-args"]


def arguments(**parameters: str) -> list[str]:
    return [
        *MODULE,
        *(word for name, value in parameters.items() for word in ("-p", f"{name.replace('__', '.')}:={value}")),
    ]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({}, "robot: Field required"),
        ({"robot": "wx251"}, "no robot 'wx251': give one of"),
        ({"robot": "none"}, "base_frame: without a robot description"),
        ({"robot": "wx250s", "base_frame": "world"}, "base_frame: 'world' is not wx250s's base frame"),
        ({"robot": "panda"}, "workspace.lower_m/upper_m: the start pose's z 0.487 is outside"),
        ({"robot": "wx250s", "motion__max_speed_m_s": "0.3"}, "motion.max_speed_m_s: 0.3 is above the arm's own limit"),
        ({"robot": "wx250s", "collision__table_height_m": "0.3"}, "collision.table_height_m"),
    ],
)
def test_a_configuration_that_does_not_fit_the_robot_does_not_start(
    domain: int, parameters: dict[str, str], said: str
) -> None:
    """Hazard: the filter was set up for another arm, and nobody notices until this one moves."""
    ended = subprocess.run(arguments(**parameters), cwd="/", capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


class Arm:
    """A driver at the start pose, and a policy; what the filter sends to them."""

    def __init__(self, running: Ros) -> None:
        self._ros = running
        node = running.node("arm")
        self._clock = node.get_clock()
        self._state = node.create_publisher(ours.ArmState, "arm_state", qos.LATEST)
        self._action = node.create_publisher(ours.DeltaAction, "action", qos.LATEST)
        self.commands: list[ours.SafeCommand] = []
        self.statuses: list[ours.SafetyStatus] = []
        self.markers: list[MarkerArray] = []
        node.create_subscription(ours.SafeCommand, "command", self.commands.append, qos.STREAM)
        node.create_subscription(ours.SafetyStatus, "safety_status", self.statuses.append, qos.STATUS)
        node.create_subscription(MarkerArray, "safety_markers", self.markers.append, qos.LATCHED)
        self.refused = 0
        node.create_timer(0.02, self.report)

    def report(self) -> None:
        state = ArmState(0.0, MODEL.forward(START), np.zeros(3), np.zeros(3), START, np.zeros(6), 1.0)
        message = ours.ArmState(
            end_effector=conversion.pose_msg(state.pose),
            joints=conversion.joint_state_msg(ROBOT.joint_names, state),
            gripper=1.0,
            outcome=ours.ArmState.REFUSED if self.refused else ours.ArmState.NONE,
            command_sequence=self.refused,
            detail="elbow at a joint limit" if self.refused else "",
            reference=START.tolist() if self.refused else [],
            reference_at_rest=True,
        )
        message.header.stamp = self._clock.now().to_msg()
        self._state.publish(message)

    def ask(self, sequence: int) -> None:
        now = self._clock.now().to_msg()
        message = ours.DeltaAction(sequence=sequence, translation=Vector3(x=0.01), gripper=1.0, inference_ended=now)
        message.header.stamp, message.duration = now, conversion.duration_msg(0.2)
        self._action.publish(message)

    def wait(self, condition: object) -> None:
        self._ros.spin_until(condition, 20.0)  # type: ignore[arg-type]

    def wait_for_state(self, state: int) -> None:
        self.wait(lambda: bool(self.statuses) and self.statuses[-1].state == state)


@contextmanager
def running_filter(**parameters: str) -> Iterator[None]:
    process = subprocess.Popen(arguments(**parameters), cwd="/")
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def arm(domain: int) -> Iterator[Arm]:
    with ros(domain) as running, running_filter(robot="wx250s", armed_at_start="true"):
        arm = Arm(running)
        arm.wait_for_state(ours.SafetyStatus.HOLDING)
        yield arm


def test_a_refusal_of_the_driver_is_answered_with_a_hold(arm: Arm) -> None:
    """Hazard: the filter goes on from a target that the driver never went for."""
    arm.ask(1)
    arm.wait(lambda: arm.commands)
    move = arm.commands[-1]
    assert move.kind == ours.SafeCommand.MOVE
    assert move.header.frame_id == ROBOT.base_frame
    arm.refused = move.sequence
    arm.wait(lambda: arm.commands[-1] is not move)
    assert (arm.commands[-1].kind, arm.commands[-1].action_sequence) == (ours.SafeCommand.HOLD, 1)
    arm.wait(lambda: any(r.rule == "driver" for s in arm.statuses for r in s.reports))
    assert not any(r.rule == "no_arm_model" for s in arm.statuses for r in s.reports)


def test_the_stop_signal_holds_the_arm_also_while_the_filter_is_busy(domain: int) -> None:
    """Hazard: a stop that waits behind whatever keeps the filter from hearing it; a motion that follows it."""
    command = [sys.executable, Path(__file__).parents[1] / "support" / "busy_filter.py", *arguments(robot="wx250s")[3:]]
    filter_ = subprocess.Popen(
        [*command, "-p", "armed_at_start:=true"], cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with ros(domain) as running, filter_:
        try:
            arm = Arm(running)
            arm.wait_for_state(ours.SafetyStatus.HOLDING)
            arm.ask(1)
            arm.wait(lambda: arm.commands)
            heartbeat = running.node("operator").create_publisher(Empty, "heartbeat", qos.HEARTBEAT)

            def busy() -> bool:  # a heartbeat is not sent again by itself
                heartbeat.publish(Empty())
                return bool(select.select([filter_.stdout], [], [], 0.01)[0])

            arm.wait(busy)
            assert filter_.stdout.readline() == "busy\n"
            filter_.send_signal(signal.SIGUSR1)
            arm.wait(lambda: arm.commands[-1].kind == ours.SafeCommand.HOLD)
            assert arm.statuses[-1].state != ours.SafetyStatus.STOPPED  # it is busy still
            arm.ask(2)
            filter_.stdin.write("\n")
            filter_.stdin.flush()
            arm.wait_for_state(ours.SafetyStatus.STOPPED)
            arm.wait(lambda: any(s.action_sequence == 2 for s in arm.statuses))
            assert [c.kind for c in arm.commands].count(ours.SafeCommand.MOVE) == 1
        finally:
            filter_.kill()


def test_rviz_gets_the_markers_also_when_it_starts_later(arm: Arm) -> None:
    arm.ask(1)
    arm.wait(lambda: arm.markers and {m.ns for m in arm.markers[-1].markers if m.action == Marker.ADD} >= {"target"})
    (measured,) = [m for m in arm.markers[-1].markers if m.ns == "measured"]
    assert measured.header.frame_id == ROBOT.base_frame
    assert measured.action == Marker.ADD


def test_markers_are_where_the_things_are() -> None:
    """Hazard: a box on the screen that is not the box that is kept."""
    box = {"name": "post", "lower_m": (0.2, 0.1, 0.0), "upper_m": (0.3, 0.2, 0.4)}
    config = SafetyConfig(keep_out=[box, {**box, "name": "wall"}])
    pose = Pose(np.array([0.3, 0.0, 0.2]), np.array([0.0, np.sqrt(0.5), 0.0, np.sqrt(0.5)]))
    stamp = conversion.time_msg(5.0)
    markers = safety_markers(config, pose, None, "base", stamp).markers
    assert len({(m.ns, m.id) for m in markers}) == len(markers) == 6
    named = {m.ns: m for m in markers}
    corners = {(p.x, p.y, p.z) for p in named["workspace"].points}
    assert len(named["workspace"].points) == 24
    assert corners == {(x, y, z) for x in (0.1, 0.45) for y in (-0.2, 0.25) for z in (-0.01, 0.3)}
    block = named["keep_out"]
    assert (block.pose.position.x, block.scale.z) == (pytest.approx(0.25), pytest.approx(0.4))
    assert named["table"].pose.position.z + named["table"].scale.z / 2 == pytest.approx(-0.02)
    arrow = named["target"]  # points down, its tip at the end effector
    assert arrow.pose.position.z - arrow.scale.x == pytest.approx(0.2)
    assert named["measured"].action == Marker.DELETE
    assert all(m.header.frame_id == "base" and m.header.stamp == stamp for m in markers)
