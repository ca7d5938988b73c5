"""The e-stop and its reset through the whole graph."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import openvla_ros.msg as ours
import pytest
from graph_harness import Running

from openvla_ros.ros import conversion, qos


class Seen:
    """Commands and safety states in order of arrival."""

    def __init__(self, running: Running) -> None:
        self.log: list[ours.SafeCommand | ours.SafetyStatus] = []
        self.arm: ours.ArmState = ours.ArmState()
        running.operator.watch(ours.SafeCommand, "command", qos.STREAM, self.log.append)
        running.operator.watch(ours.SafetyStatus, "safety_status", qos.STATUS, self.log.append)
        running.operator.watch(ours.ArmState, "arm_state", qos.LATEST, self._on_arm)

    def _on_arm(self, message: ours.ArmState) -> None:
        self.arm = message

    @property
    def commands(self) -> list[ours.SafeCommand]:
        return [m for m in self.log if isinstance(m, ours.SafeCommand)]

    @property
    def moves(self) -> list[ours.SafeCommand]:
        return [c for c in self.commands if c.kind == ours.SafeCommand.MOVE]

    @property
    def statuses(self) -> list[ours.SafetyStatus]:
        return [m for m in self.log if isinstance(m, ours.SafetyStatus)]

    @property
    def speed(self) -> float:
        """Of the end effector [m/s]."""
        twist = self.arm.twist.linear
        return float(np.linalg.norm([twist.x, twist.y, twist.z]))

    def count_refused(self, rule: str) -> int:
        """Actions that a rule has refused."""
        refused = [s for s in self.statuses if s.verdict == ours.SafetyStatus.REFUSED]
        return len([s for s in refused if rule in {r.rule for r in s.reports}])

    @property
    def stopped(self) -> bool:
        return bool(self.statuses) and self.statuses[-1].state == ours.SafetyStatus.STOPPED


@pytest.fixture
def seen(running: Running) -> Iterator[Seen]:
    """In non-blocking control, the arm moving."""
    running.start_afresh()
    running.activate("non_blocking")
    seen = Seen(running)
    running.wait("motion", lambda: len(seen.moves) >= 3, 30)
    yield seen
    running.operator.e_stop(False)
    running.operator.transition("policy", "deactivate")
    running.wait("the release", lambda: not seen.statuses[-1].stop_pressed, 5)


def test_e_stop_stops_and_latches(running: Running, seen: Seen) -> None:
    """Hazard: a stop that the next action overrides, or that ends when the button is let go."""
    running.operator.e_stop(True)
    running.wait("the stop", lambda: seen.stopped, 5)
    at_stop = len(seen.moves)
    assert any(c.kind == ours.SafeCommand.HOLD for c in seen.commands)
    running.wait("the arm at rest", lambda: seen.speed < 0.005, 5)
    running.operator.e_stop(False)
    refused = len([s for s in seen.statuses if s.verdict == ours.SafetyStatus.REFUSED])
    running.wait(
        "five more actions, refused",
        lambda: len([s for s in seen.statuses if s.verdict == ours.SafetyStatus.REFUSED]) >= refused + 5,
        20,
    )
    assert len(seen.moves) == at_stop
    assert seen.statuses[-1].state == ours.SafetyStatus.STOPPED


def test_reset_is_refused_while_pressed_and_re_arms_after(running: Running, seen: Seen) -> None:
    """Hazard: a reset that re-arms under a pressed e-stop; one that moves the arm, because the policy was active all
    the time; or an arm that never moves again after a proper one."""
    running.operator.e_stop(True)
    running.wait("the stop", lambda: seen.stopped, 5)
    done, why = running.operator.trigger("safety_filter/reset")
    assert not done
    assert "pressed" in why
    running.operator.e_stop(False)
    running.wait("the release", lambda: not seen.statuses[-1].stop_pressed, 5)
    done, why = running.operator.trigger("safety_filter/reset")
    assert done, why
    moves = len(seen.moves)
    running.wait("actions that are refused", lambda: seen.count_refused("paused") >= 5, 20)
    assert len(seen.moves) == moves, "a reset moves nothing"
    done, why = running.operator.trigger("safety_filter/resume")
    assert done, why
    running.wait("motion again", lambda: len(seen.moves) > moves, 10)
    # Motion resumes from where the arm is, not from where it would have been.
    target = conversion.pose(seen.moves[moves].target)
    translation, _ = conversion.pose(seen.arm.end_effector).motion_to(target)
    assert np.linalg.norm(translation) < 0.06


def test_stop_service(running: Running, seen: Seen) -> None:
    """Hazard: only one of the ways to stop works."""
    done, _ = running.operator.trigger("safety_filter/stop")
    assert done
    running.wait("the stop", lambda: seen.stopped, 5)
    running.wait("the arm at rest", lambda: seen.speed < 0.005, 5)
    done, why = running.operator.trigger("safety_filter/reset")
    assert done, why


def test_another_instruction_goes_on_after_a_reset(running: Running, seen: Seen) -> None:
    """Hazard: only one of the deliberate acts counts; or any instruction does, again and again."""
    assert running.operator.trigger("safety_filter/stop")[0]
    running.wait("the stop", lambda: seen.stopped, 5)
    assert running.operator.trigger("safety_filter/reset")[0]
    running.operator.instruct("lift the red block")  # the same one: somebody's node repeats it
    running.wait("actions that are refused", lambda: seen.count_refused("paused") >= 3, 20)
    moves = len(seen.moves)
    running.operator.instruct("lift the blue block")
    running.wait("motion again", lambda: len(seen.moves) > moves, 10)


def test_a_short_press_counts(running: Running, seen: Seen) -> None:
    """Hazard: True, and False at once after it: the button's bounce, a short press. A subscription that keeps the last
    message only has lost it."""
    for _ in range(10):
        running.operator.e_stop(True)
        running.operator.e_stop(False)
        running.wait("the stop", lambda: seen.stopped, 5)
        running.wait("the release", lambda: not seen.statuses[-1].stop_pressed, 5)
        seen.log.clear()
        assert running.operator.trigger("safety_filter/reset")[0]
        running.wait("the reset", lambda: bool(seen.statuses) and not seen.stopped, 5)
    assert running.operator.trigger("safety_filter/resume")[0]
