"""The fault matrix, its clock: the filter's own clock jumps, and stands still. Lines of the table in docs/safety.md.

The system's clock is not ours to change, so the filter runs on ROS time, and /clock is the test's.
"""

from __future__ import annotations

from collections.abc import Iterator

import openvla_ros.msg as ours
import pytest
from builtin_interfaces.msg import Duration
from fault_bench import Bench, relayed_graph
from graph_harness import Running, run_graph
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from openvla_ros.ros import conversion, qos, timers

WAITING, STOPPED = ours.SafetyStatus.WAITING, ours.SafetyStatus.STOPPED


class Time:
    """/clock: the system's time and ``offset`` [s], or the time at which it was stopped; and actions, ten a second."""

    def __init__(self, running: Running) -> None:
        self.offset = 0.0
        self.stopped: float | None = None
        self._operator = running.operator
        self._arm = ours.ArmState()
        self._direction = 1.0
        self._sequence = round(running.operator.now() * 1e3)
        node = running.operator.node
        self._clock = node.create_publisher(
            Clock, "/clock", QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        )
        self._actions = node.create_publisher(ours.DeltaAction, "action", qos.LATEST)
        running.operator.watch(ours.ArmState, "arm_state", qos.LATEST, lambda m: setattr(self, "_arm", m))
        timers.every(node, 0.005, self._tick)
        timers.every(node, 0.1, self._act)

    def _tick(self) -> None:
        now = self._operator.now() + self.offset if self.stopped is None else self.stopped
        self._clock.publish(Clock(clock=conversion.time_msg(now)))

    def stop(self) -> None:
        self.stopped = self._operator.now()

    def go_right(self) -> None:
        self.offset, self.stopped = 0.0, None

    def _act(self) -> None:
        y = self._arm.end_effector.position.y
        self._direction = -1.0 if y > 0.12 else 1.0 if y < -0.12 else self._direction
        self._sequence += 1
        now = conversion.time_msg(self._operator.now())
        message = ours.DeltaAction(sequence=self._sequence, gripper=1.0, duration=Duration(nanosec=200_000_000))
        message.header.stamp = message.image_received = message.inference_started = message.inference_ended = now
        message.translation.y = 0.02 * self._direction
        self._actions.publish(message)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    graph = relayed_graph().without("policy").with_parameters("safety_filter", use_sim_time=True)
    with run_graph(graph, tmp_path_factory.mktemp("log"), autoconfigure=False) as running:
        yield running


@pytest.fixture(scope="module")
def parts(running: Running) -> tuple[Bench, Time]:
    return Bench(running), Time(running)


@pytest.fixture
def bench(parts: tuple[Bench, Time]) -> Iterator[Bench]:
    """The arm in full swing."""
    bench, clock = parts
    bench.reset()
    bench.wait_for_motion()
    yield bench
    clock.go_right()


@pytest.fixture
def clock(parts: tuple[Bench, Time]) -> Time:
    return parts[1]


def test_clock_jumps_back(bench: Bench, clock: Time) -> None:
    """Hazard: with the clock set back, every old message is new again, and a timer that follows it sleeps."""
    fault = bench.running.operator.now()
    clock.offset = -100.0
    bench.wait_for_state(STOPPED)
    bench.wait_to_hear("status", "clock went backwards")
    bench.assert_still(fault, 0.0)
    heard = bench.statuses
    bench.wait("a heartbeat that goes on", lambda: bench.statuses > heard + 5)
    done, why = bench.running.operator.trigger("safety_filter/reset")
    assert not done
    assert "future" in why
    clock.go_right()
    bench.reset()
    bench.wait_for_motion()


def test_clock_jumps_forward(bench: Bench, clock: Time) -> None:
    """Hazard: with the clock set forward, everything known is out of date; set right again, it has gone backwards."""
    fault = bench.running.operator.now()
    clock.offset = 100.0
    bench.wait_for_state(WAITING)
    bench.wait_to_hear("status", "arm_state")
    bench.assert_still(fault, 0.0)
    clock.go_right()
    bench.wait_for_state(STOPPED)
    bench.wait_to_hear("status", "clock went backwards")
    bench.reset()
    bench.wait_for_motion()


def test_clock_stands_still(bench: Bench, clock: Time) -> None:
    """Hazard: a simulation's clock that is paused: no age grows any more, and no watchdog wakes."""
    fault = bench.running.operator.now()
    clock.stop()
    bench.wait_for_state(WAITING)
    bench.wait_to_hear("status", "arm_state")
    bench.assert_still(fault, 0.1)
    heard = bench.statuses
    bench.wait("a heartbeat that goes on", lambda: bench.statuses > heard + 5)
    clock.go_right()
    bench.wait_for_motion()
