"""Arrival is measured. Time alone proves nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safety_scene import START, arm_state, shifted, turned

from openvla_ros.drive.arrival import Arrival, ArrivalConfig
from openvla_ros.drive.grippers import GripperKeeper, KeeperConfig
from openvla_ros.types import Command, Outcome, Pose

TARGET = shifted((0.05, 0, 0))


class Run:
    """Steps of 20 ms: states carry stamps of another clock than the one that is passed in, as in the driver."""

    def __init__(self, target: Pose = TARGET, gripper: float = 1.0, **config: Any) -> None:
        self.arrival = Arrival(ArrivalConfig(**config))
        self.now, self.offset = 50.0, 1.7e9
        self.arrival.start(Command(target, gripper, 0.2, 1), self.now)

    def go(self, seconds: float, pose: Pose, **changes: Any) -> Outcome:
        outcome = self.arrival.outcome
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            state = replace(arm_state(self.now + self.offset, pose), **changes)
            outcome = self.arrival.update(state, self.now)
        return outcome


def test_there_and_at_rest_for_the_settle_time_is_arrived() -> None:
    run = Run()
    assert run.go(0.2, START) is Outcome.EXECUTING
    assert run.go(0.1, TARGET) is Outcome.EXECUTING
    assert run.go(0.04, TARGET) is Outcome.ARRIVED
    assert run.go(1.0, START) is Outcome.ARRIVED  # what happened stays


def test_time_alone_is_not_arrival() -> None:
    """Hazard: a "blocking" mode that only sleeps."""
    run = Run()
    assert run.go(2.1, START) is Outcome.EXECUTING
    assert run.go(0.2, START) is Outcome.TIMED_OUT


def test_passing_through_the_target_is_not_arrival() -> None:
    """Hazard: an arm that swings through its target at speed."""
    run = Run()
    run.go(0.2, START)
    assert run.go(0.4, TARGET, linear_velocity=np.array([0, 0.1, 0])) is Outcome.EXECUTING
    assert run.go(0.4, TARGET, angular_velocity=np.array([0, 0, 0.5])) is Outcome.EXECUTING
    for _ in range(10):
        assert run.go(0.06, TARGET) is Outcome.EXECUTING
        assert run.go(0.02, START) is Outcome.EXECUTING


def test_an_arm_that_has_not_begun_to_move_has_not_arrived() -> None:
    """Hazard: a step smaller than the tolerance; the arm is near the target and at rest, and sets off afterwards."""
    run = Run(target=shifted((0.005, 0, 0)))
    assert run.go(0.2, START) is Outcome.EXECUTING
    assert run.go(0.14, START) is Outcome.ARRIVED


def test_orientation_counts() -> None:
    run = Run(target=turned((0, 0, 0.2)))
    assert run.go(1.0, turned((0, 0, 0.1))) is Outcome.EXECUTING
    assert run.go(0.2, turned((0, 0, 0.19))) is Outcome.ARRIVED


def test_one_measurement_again_and_again_is_no_settling() -> None:
    """Hazard: frozen joint states look like an arm at rest."""
    run = Run()
    state = arm_state(run.now + run.offset, TARGET)
    for _ in range(50):
        run.now += 0.02
        assert run.arrival.update(state, run.now) is Outcome.EXECUTING


def test_without_measurements_it_times_out() -> None:
    run = Run()
    assert run.arrival.update(None, run.now + 2.1) is Outcome.EXECUTING
    assert run.arrival.update(None, run.now + 2.3) is Outcome.TIMED_OUT


@pytest.mark.parametrize("changes", [{"gripper": math.nan}, {"linear_velocity": np.full(3, math.nan)}])
def test_nan_never_arrives(changes: dict[str, Any]) -> None:
    """Hazard: comparisons with NaN are false; written the wrong way round they mean "within tolerance"."""
    run = Run()
    assert run.go(1.0, TARGET, **changes) is Outcome.EXECUTING


def test_a_grasped_object_stops_the_gripper_and_that_is_arrival() -> None:
    """Hazard: waiting for a gripper to close through a block."""
    run = Run(gripper=0.0)
    assert run.go(0.3, TARGET, gripper=1.0) is Outcome.EXECUTING  # has not begun to close
    for opening in np.linspace(1.0, 0.5, 20):
        assert run.go(0.02, TARGET, gripper=float(opening)) is Outcome.EXECUTING
    assert run.go(0.3, TARGET, gripper=0.5) is Outcome.ARRIVED


def test_a_gripper_that_is_still_closing_has_not_arrived() -> None:
    run = Run(gripper=0.0)
    for opening in np.linspace(1.0, 0.1, 40):
        assert run.go(0.02, TARGET, gripper=float(opening)) is Outcome.EXECUTING


def test_a_gripper_that_does_not_move_is_waited_for_longer() -> None:
    """Hazard: its controller is not there; at rest, short of its target, it looks as if it held an object."""
    run = Run(gripper=0.0)
    assert run.go(1.4, TARGET) is Outcome.EXECUTING
    assert run.go(0.3, TARGET) is Outcome.ARRIVED


@pytest.mark.parametrize("listeners", [0, 1])
def test_whoever_keeps_the_gripper_says_whether_it_has_heard(listeners: int) -> None:
    """Hazard: the arm has arrived, the gripper's controller is not there, and the next step lifts."""
    run, keeper = Run(), GripperKeeper(KeeperConfig())
    keeper.on_listeners(listeners, run.now)
    keeper.on_measured(1.0, run.now + run.offset, run.now)
    keeper.command(0.0, 0.2, run.now)
    keeper.tick(run.now)
    run.arrival = Arrival(ArrivalConfig(), keeper.progress)
    run.arrival.start(Command(TARGET, 0.0, 0.2, 1), run.now)
    assert run.go(2.1, TARGET) is (Outcome.ARRIVED if listeners else Outcome.EXECUTING)
    assert run.go(0.2, TARGET) is (Outcome.ARRIVED if listeners else Outcome.TIMED_OUT)


def test_another_arrival_remembers_the_object_in_the_hand() -> None:
    """Hazard: after every hold the first step waits for a gripper that has long closed on its object."""
    run, keeper = Run(), GripperKeeper(KeeperConfig())
    for gripper in (1.0, 0.8, 0.6, *[0.5] * 20):
        keeper.command(0.0, 0.2, run.now)
        keeper.tick(run.now)
        run.now += 0.02
        keeper.on_measured(gripper, run.now + run.offset, run.now)
    run.arrival = Arrival(ArrivalConfig(), keeper.progress)
    run.arrival.start(Command(TARGET, 0.0, 0.2, 1), run.now)
    assert run.go(0.34, TARGET, gripper=0.5) is Outcome.ARRIVED


def test_a_hold_ends_the_motion() -> None:
    run = Run()
    run.arrival.start(Command(TARGET, 1.0, 0.0, 2, hold=True), run.now)
    assert run.go(1.0, TARGET) is Outcome.HELD


def test_nothing_commanded_is_none() -> None:
    assert Arrival(ArrivalConfig()).update(arm_state(1.0), 1.0) is Outcome.NONE
