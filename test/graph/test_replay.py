"""Replay in a running graph: the recorded actions through the safety filter, on the simulated arm."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from graph_harness import Running, run_graph

from openvla_ros.bringup.graph import sim
from openvla_ros.errors import ReplayError
from openvla_ros.operate.operator import Operator
from openvla_ros.operate.replayer import Replayer
from openvla_ros.recording.episode import Episode
from openvla_ros.recording.replay import Path, Plan, PlannedStep, Replay, ReplaySource, Tolerance, distance, make_plan
from openvla_ros.robots.description import load_robot
from openvla_ros.robots.kinematics import Kinematics
from openvla_ros.types import Action, Array, Pose

STEP = np.array([0.005, 0.004, -0.003, 0.0, 0.0, 0.03, 0.5])  # below every limit of the filter
COUNT = 10
# Of the 71 mm of the whole way. 0.0 mm where the machine keeps up; where it is so busy that the filter misses an arm
# state, an action starts from the measured pose and falls short.
ALLOWED_MM = 20.0


def to_start(running: Running) -> Pose:
    """The arm in its start pose and a filter whose target is there: where that is, measured."""
    samples = running.watcher.trace.samples
    start = load_robot("wx250s")
    home = Kinematics(start).forward(start.pose("start"))
    assert running.operator.trigger("safety_filter/stop")[0]
    running.wait("the stop", lambda: running.watcher.state == "STOPPED")
    while True:
        # A hold on a measurement from before the reset drives the arm back; a stopped filter sends no other one.
        assert running.operator.trigger("sim/reset")[0]
        running.wait("the start pose", lambda: distance(samples[-1].measured, home)[0] < 0.005)
        count = len(samples)
        running.wait("what comes of it", lambda count=count: len(samples) > count + 30)
        if distance(samples[-1].measured, home)[0] < 0.005:
            break
    done, why = running.operator.trigger("safety_filter/reset")
    assert done, why
    running.wait("the reset", lambda: running.watcher.state != "STOPPED")
    return samples[-1].measured


def replay(running: Running, plan: Plan, *, to_start: bool = False) -> Replay:
    with Operator(name="replay", domain=running.domain) as operator:
        replayer = Replayer(operator, plan, Tolerance())
        replayer.prepare()
        if to_start:
            replayer.move_to_start()
        return replayer.run()


def direction(a: Array, b: Array) -> float:
    """Cosine of the angle between two vectors."""
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@contextmanager
def after_three_actions(running: Running, act: Callable[[], None]) -> Iterator[None]:
    """``act`` in a thread, when the third action from now on is seen."""
    seen = len(running.watcher.trace.steps)

    def wait() -> None:
        running.wait("three actions", lambda: len(running.watcher.trace.steps) >= seen + 3)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()


def wait_for_the_recorder(running: Running) -> None:
    """Until it hears the arm, which takes DDS its time on a busy machine: by looking at what it records."""
    samples = running.watcher.trace.samples
    for _ in range(20):
        done, folder = running.operator.trigger("recorder/start")
        assert done, folder
        count = len(samples)
        running.wait("arm states", lambda count=count: len(samples) > count + 20)
        assert running.operator.trigger("recorder/stop")[0]
        if Episode.open(folder).trace.samples:
            return
    raise AssertionError("the recorder never heard the arm")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Episode]]:
    """A graph, and what it recorded of small, equal steps from the start pose."""
    graph = sim().with_parameters("policy", autostart=False)
    graph = graph.with_parameters("safety_filter", **{"camera.timeout_s": 0.5})  # which a replay has to satisfy
    graph = graph.with_parameters("recorder", episodes=str(tmp_path_factory.mktemp("episodes")), record="request")
    with run_graph(graph, tmp_path_factory.mktemp("log")) as running:
        wait_for_the_recorder(running)
        begin = to_start(running)
        action = Action.from_array(STEP)
        steps = [PlannedStep(0.2 * i, action, 0.2, "", "", i, "", ()) for i in range(COUNT)]
        robot = load_robot("wx250s")
        plan = Plan(
            "made", "raw", steps, Path([0.0], [begin], [1.0]), 1.0, robot.name, robot.base_frame, robot.joint_names, {},
            None, None,
        )  # fmt: skip
        done, folder = running.operator.trigger("recorder/start")
        assert done, folder
        assert replay(running, plan).complete
        done, folder = running.operator.trigger("recorder/stop")
        assert done, folder
        running.wait("the episode on disk", lambda: Episode.open(folder).provenance.complete)
        yield running, Episode.open(folder)


@pytest.mark.parametrize("source", ["raw", "accepted"])
def test_the_arm_goes_where_it_went(recorded: tuple[Running, Episode], source: ReplaySource) -> None:
    """Hazards: a stale stamp or sequence number that the filter refuses; the wrong frame; actions in another order."""
    running, episode = recorded
    plan = make_plan(episode, source)
    assert len(plan.steps) >= COUNT - 2
    to_start(running)
    done = replay(running, plan)
    assert done.complete, done.stopped
    assert sum(s.verdict == "accepted" for s in done.sent) >= COUNT - 2
    way = done.path.poses[-1].position - plan.start.position
    assert direction(way, STEP[:3]) > 0.95
    assert len(done.differences) == len(plan.steps)
    assert sum(s.target_mm is not None for s in done.sent) >= COUNT - 4
    assert done.differences[-1].mm < ALLOWED_MM


def test_from_elsewhere(recorded: tuple[Running, Episode]) -> None:
    """Hazard: a replay from another pose drives the arm along a path that nobody has seen. The way back is in steps."""
    running, episode = recorded
    plan = make_plan(episode, "raw")
    to_start(running)
    replay(running, plan)  # the arm is at the episode's end
    with pytest.raises(ReplayError, match="mm and"):
        replay(running, plan)
    seen = len(running.watcher.trace.steps)
    done = replay(running, plan, to_start=True)
    assert done.complete, done.stopped
    approach = list(running.watcher.trace.steps.values())[seen : -len(plan.steps)]
    assert max(np.linalg.norm(s.raw.translation) for s in approach if s.raw) <= 0.01 + 1e-9
    assert done.differences[-1].mm < ALLOWED_MM


def test_it_ends_when_the_arm_strays(recorded: tuple[Running, Episode]) -> None:
    """Hazard: after a refused action all others go on from another place, along a way that nobody has seen."""
    running, episode = recorded
    plan = make_plan(episode, "raw")
    elsewhere = np.array([0.0, 0.1, 0.0])
    steps = [replace(s, target=s.target.moved(elsewhere, np.zeros(3)) if s.target else None) for s in plan.steps]
    to_start(running)
    done = replay(running, replace(plan, steps=steps))
    assert not done.complete
    assert "100 mm from where it was" in done.stopped
    assert len(done.sent) <= 3


def test_an_active_policy_is_not_joined(recorded: tuple[Running, Episode]) -> None:
    """Hazard: two publishers of actions, the arm between them."""
    running, episode = recorded
    running.activate("non_blocking")
    try:
        with pytest.raises(ReplayError, match="publishes actions"):
            replay(running, make_plan(episode, "raw"))
    finally:
        running.operator.transition("policy", "deactivate")


def test_a_policy_that_wakes_ends_it(recorded: tuple[Running, Episode]) -> None:
    """The same hazard, while the replay runs."""
    running, episode = recorded
    to_start(running)
    running.operator.instruct("lift the red block")
    with after_three_actions(running, lambda: running.operator.transition("policy", "activate")):
        done = replay(running, make_plan(episode, "raw"))
    running.operator.transition("policy", "deactivate")
    assert not done.complete
    assert "somebody else publishes actions" in done.stopped


def test_e_stop_ends_it(recorded: tuple[Running, Episode]) -> None:
    """Hazard: a replay that goes on sending, and moves on when the filter is reset."""
    running, episode = recorded
    plan = make_plan(episode, "raw")
    to_start(running)
    with after_three_actions(running, lambda: running.operator.e_stop(True)):
        done = replay(running, plan)
    running.operator.e_stop(False)
    assert not done.complete
    assert "stopped" in done.stopped
    assert len(done.sent) < len(plan.steps)
    with pytest.raises(ReplayError, match="openvla-ros reset"):
        replay(running, plan)
