"""The fault matrix: real processes, one fault a test, each a line of the table in docs/safety.md.

In every test: the arm, in full swing, holds in time by its own stamps; somebody says why; what the table says brings it
back, and nothing less.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openvla_ros.msg as ours
import pytest
from fault_bench import Bench, relayed_graph
from graph_harness import Running, run_graph

from openvla_ros.robots.description import load_robot

ACTIVE, HOLDING, STOPPED = ours.SafetyStatus.ACTIVE, ours.SafetyStatus.HOLDING, ours.SafetyStatus.STOPPED
MOTION = 0.2  # s of a motion in non-blocking control: what the arm was told last, it ends
FILTER_TIMEOUT = 0.2
STATE_TIMEOUT = 0.2
CAMERA_TIMEOUT = 0.15  # s without an image after which the filter holds, where it is asked to


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with run_graph(relayed_graph(), tmp_path_factory.mktemp("log")) as running:
        yield running


@pytest.fixture(scope="module")
def graph(running: Running) -> Bench:
    return Bench(running)


@pytest.fixture
def bench(graph: Bench) -> Iterator[Bench]:
    """The arm in full swing."""
    graph.make_sure_it_moves()
    yield graph
    graph.camera.mode = graph.actions.mode = "pass"


def test_policy_killed(bench: Bench) -> None:
    """Hazard: the policy dies in mid-motion."""
    bench.assert_still(bench.kill("policy"), MOTION)
    bench.wait_for_state(HOLDING)
    bench.wait_to_hear("status", "watchdog: no valid action")
    bench.restart("policy")
    bench.activate_policy()
    bench.wait_for_motion()


def test_policy_hangs(bench: Bench) -> None:
    """Hazard: the policy hangs, and what it was about to say comes out much later."""
    with bench.hung("policy") as fault:
        bench.assert_still(fault, MOTION)
        bench.wait_for_state(HOLDING)
        bench.wait_to_hear("status", "watchdog: no valid action")
    bench.wait_for_motion()


def test_filter_killed(bench: Bench) -> None:
    """Hazard: without a filter the driver goes on with what it has; a new filter has forgotten that it was stopped."""
    bench.assert_still(bench.kill("safety_filter"), FILTER_TIMEOUT)
    bench.wait_to_hear("arm_driver", "safety filter was silent")
    bench.restart("safety_filter")
    bench.wait_for_state(STOPPED)
    bench.wait_to_hear("status", "the start of the filter")
    sent = bench.actions.sent
    bench.wait("actions, refused", lambda: bench.actions.sent > sent + 3)
    assert bench.status.state == STOPPED
    bench.reset()
    bench.wait_for_motion()


def test_filter_hangs(bench: Bench) -> None:
    """Hazard: a filter that hangs while its last command runs; when it comes back, it speaks of the past."""
    with bench.hung("safety_filter") as fault:
        bench.assert_still(fault, FILTER_TIMEOUT)
        bench.wait_to_hear("arm_driver", "safety filter was silent")
    bench.wait_for_motion()


def test_driver_killed(bench: Bench) -> None:
    """Hazard: the driver dies; the arm's own controller has the rest of a motion, and no more."""
    bench.assert_still(bench.kill("arm_driver"), MOTION)
    bench.wait_for_state(ours.SafetyStatus.WAITING)
    bench.wait_to_hear("status", "arm_state")
    bench.restart("arm_driver")
    bench.wait_for_motion()


def test_driver_hangs(bench: Bench) -> None:
    """Hazard: the driver hangs with a command in its queue, and carries it out when it comes back."""
    with bench.hung("arm_driver") as fault:
        bench.assert_still(fault, MOTION)
        bench.wait_for_state(ours.SafetyStatus.WAITING)
        bench.wait_to_hear("status", "arm_state")
        commands = bench.status.command_sequence
    bench.wait("the driver", lambda: bench.arm.command_sequence >= commands)
    bench.wait_for_motion()


def test_arm_killed(bench: Bench) -> None:
    """Hazard: the arm's own driver dies (and here the camera with it): commands into the void, then a jump; and the arm
    is elsewhere when it comes back."""
    bench.wait("the far side", lambda: bench.actions.y > 0.05)
    bench.kill("sim")
    bench.wait_for_state(ours.SafetyStatus.WAITING)
    bench.wait_to_hear("status", "arm_state")
    bench.wait_to_hear("policy", "arm state is")
    bench.restart("sim")
    bench.wait_for_state(STOPPED)
    bench.wait_to_hear("status", "displaced")
    sent = bench.actions.sent
    bench.wait("actions, refused", lambda: bench.actions.sent > sent + 3)
    bench.reset()
    bench.wait_for_motion()


def test_arm_hangs(bench: Bench) -> None:
    """Hazard: the arm's own driver hangs; a queue of trajectories is waiting for it."""
    with bench.hung("sim"):
        bench.wait_for_state(ours.SafetyStatus.WAITING)
        bench.wait_to_hear("status", "arm_state")
        bench.wait_to_hear("arm_driver", "no joint states")
        bench.speeds.clear()
    bench.wait_for_motion()
    # It ends the motion that it was in; a queue of missed ones would be faster than its joints may turn.
    assert max(speed for _, speed in bench.speeds) < load_robot("wx250s").max_velocity.min()


@pytest.fixture
def watched(bench: Bench) -> Iterator[None]:
    """The filter holds the arm in mid-motion when the camera fails."""
    bench.running.operator.set_parameters("safety_filter", camera__timeout_s=CAMERA_TIMEOUT)
    yield
    bench.running.operator.set_parameters("safety_filter", camera__timeout_s=5.0)


@pytest.mark.usefixtures("watched")
def test_camera_killed(bench: Bench) -> None:
    """Hazard: the camera's driver dies; the last image drives the arm on."""
    with bench.own_camera():
        fault = bench.kill("camera")
        bench.wait_to_hear("policy", "newest image is")
        bench.assert_still(fault, CAMERA_TIMEOUT)
        bench.wait_for_state(HOLDING)
        bench.start_camera()
        bench.wait_for_motion()


@pytest.mark.usefixtures("watched")
def test_camera_hangs(bench: Bench) -> None:
    """Hazard: the camera's driver hangs, and delivers old images when it comes back."""
    with bench.own_camera():
        with bench.hung("camera") as fault:
            bench.wait_to_hear("policy", "newest image is")
            bench.assert_still(fault, CAMERA_TIMEOUT)
            bench.wait_for_state(HOLDING)
        bench.wait_for_motion()


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("silent", "newest image is"),
        ("same stamp", "newest image is"),
        ("same picture", "very same picture"),
        ("encoding", "encoding '32FC1'"),
    ],
    ids=["silent", "same_stamp", "same_picture", "encoding"],
)
def test_camera(bench: Bench, mode: str, said: str) -> None:
    """Hazard: zero-filled, old, or frozen images that drive the arm."""
    sent = bench.actions.sent
    bench.camera.mode = mode
    fault = bench.running.operator.now()
    bench.wait_to_hear("policy", said)
    if mode == "same picture":  # ten pictures later, and not before; on a busy machine they come slowly
        fault, sent = bench.running.operator.now(), bench.actions.sent
    bench.assert_still(fault, CAMERA_TIMEOUT)
    bench.wait_for_state(HOLDING)
    bench.wait_to_hear("status", "no image that the policy can use")
    assert bench.actions.sent <= sent + 5
    bench.camera.mode = "pass"
    bench.wait_for_motion()


def test_actions_not_finite(bench: Bench) -> None:
    """Hazard: a NaN that passes every comparison."""
    sent = bench.actions.sent
    bench.actions.mode = "nan"
    bench.wait("the first one", lambda: bench.actions.sent > sent)
    fault = bench.running.operator.now()
    bench.wait_to_hear("status", "not_finite")
    bench.assert_still(fault, 0.0)
    bench.wait_for_state(HOLDING)
    bench.actions.mode = "pass"
    bench.wait_for_motion()


def test_actions_late(bench: Bench) -> None:
    """Hazard: an action that was stuck somewhere."""
    bench.actions.mode = "late"
    fault = bench.running.operator.now()
    bench.wait_to_hear("status", "stale_action")
    bench.assert_still(fault, MOTION)
    bench.wait_for_state(HOLDING)
    bench.actions.mode = "pass"
    bench.wait_for_motion()


def test_action_flood(bench: Bench) -> None:
    """Hazard: valid actions at 10 kHz: the arm follows somebody who is out of control, or the e-stop is not heard."""
    # Far below the default: on a busy machine the filter does not get to see most of them.
    bench.running.operator.set_parameters("safety_filter", rate__max_actions_per_s=50)
    script = Path(__file__).parents[1] / "support" / "flood.py"
    flood = subprocess.Popen([sys.executable, script, "10000"], cwd="/", stdout=subprocess.PIPE, text=True)
    try:
        bench.wait("the stop", lambda: bench.status.state == STOPPED, 30)
        fault = bench.running.operator.now()
        assert "flood" in bench.said["status"]
        bench.assert_still(fault, 0.0)
        done, why = bench.running.operator.trigger("safety_filter/reset", 10)
        assert not done
        assert "flood" in why
        bench.running.operator.e_stop(True)
        bench.wait("the e-stop, through the flood", lambda: bench.status.stop_pressed, 10)
    finally:
        bench.running.operator.e_stop(False)
        flood.terminate()
        print(flood.communicate(timeout=20)[0].strip())
        bench.running.operator.set_parameters("safety_filter", rate__max_actions_per_s=200)
    bench.reset()
    bench.wait_for_motion()


def test_silent_e_stop_button(bench: Bench) -> None:
    """Hazard: the stop button's box has died: a press would not be heard."""
    operator = bench.running.operator
    assert operator.trigger("safety_filter/stop")[0]
    operator.set_parameters("safety_filter", e_stop__timeout_s=1.0)
    try:
        bench.wait_to_hear("status", "e_stop: nothing heard")
        done, why = operator.trigger("safety_filter/reset")
        assert not done
        assert "e_stop topic" in why
        timer = operator.node.create_timer(0.05, lambda: operator.e_stop(False))
        bench.reset()
        bench.wait_for_motion()
        timer.cancel()
        fault = operator.now()
        bench.wait_for_state(STOPPED)
        bench.wait_to_hear("status", "e_stop topic")
        bench.assert_still(fault, 1.0)
    finally:
        assert operator.trigger("safety_filter/stop")[0]
        operator.set_parameters("safety_filter", e_stop__timeout_s=None)
    bench.reset()
    bench.wait_for_motion()
