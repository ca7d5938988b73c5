"""Both control modes through the whole graph: real processes, real DDS, real model code, real physics."""

from __future__ import annotations

import numpy as np
import openvla_ros.msg as ours
import pytest
from graph_harness import Running

from openvla_ros.ros import conversion, qos


class Messages:
    """Every action, command and arm state of one test, in order of arrival."""

    def __init__(self, running: Running) -> None:
        self.actions: list[ours.DeltaAction] = []
        self.commands: list[ours.SafeCommand] = []
        self.arm_states: list[ours.ArmState] = []
        running.operator.watch(ours.DeltaAction, "action", qos.STREAM, self.actions.append)
        running.operator.watch(ours.SafeCommand, "command", qos.STREAM, self.commands.append)
        running.operator.watch(ours.ArmState, "arm_state", qos.STREAM, self.arm_states.append)

    def answered(self) -> list[tuple[ours.DeltaAction, ours.SafeCommand]]:
        """Each action with the command that it became."""
        by_sequence = {a.sequence: a for a in self.actions}
        return [(by_sequence[c.action_sequence], c) for c in self.commands if c.action_sequence in by_sequence]


@pytest.fixture
def messages(running: Running) -> Messages:
    running.start_afresh()
    return Messages(running)


def test_non_blocking_runs_at_its_rate_and_moves_the_arm(running: Running, messages: Messages) -> None:
    """Hazard: a graph that starts but drives nothing, or at a rate that nobody asked for."""
    running.activate("non_blocking")
    running.wait("20 commands", lambda: len(messages.answered()) >= 20, 30)
    running.operator.transition("policy", "deactivate")
    starts = np.array([conversion.seconds(a.inference_started) for a in messages.actions])
    assert np.median(np.diff(starts)) == pytest.approx(0.2, abs=0.03)
    positions = np.array([conversion.pose(s.end_effector).position for s in messages.arm_states])
    assert np.ptp(positions, axis=0).max() > 0.01


def test_every_command_tells_where_it_comes_from(running: Running, messages: Messages) -> None:
    """Hazard: a bag that can't tell which image led to which motion. Stamps of the hops are there and in order."""
    running.activate("non_blocking")
    running.wait("5 commands", lambda: len(messages.answered()) >= 5, 30)
    running.operator.transition("policy", "deactivate")
    for action, command in messages.answered():
        assert command.header.stamp == action.header.stamp
        hops = [
            action.header.stamp,
            action.image_received,
            action.inference_started,
            action.inference_ended,
            command.action_received,
            command.decided,
        ]
        stamps = [conversion.seconds(h) for h in hops]
        assert stamps == sorted(stamps)
        assert len(action.token_ids) == len(action.normalized) == 7


def test_blocking_waits_for_the_arm_and_for_an_image_after_it(running: Running, messages: Messages) -> None:
    """Hazard: "blocking" that only sleeps. Each inference starts after the last motion's measured end, on an image
    taken after that."""
    running.activate("blocking")
    running.wait("8 commands", lambda: len(messages.answered()) >= 8, 60)
    running.operator.transition("policy", "deactivate")
    ended = {
        s.action_sequence: conversion.seconds(s.outcome_stamp)
        for s in messages.arm_states
        if s.outcome not in (ours.ArmState.NONE, ours.ArmState.EXECUTING)
    }
    judged = 0
    for before, after in zip(messages.actions, messages.actions[1:], strict=False):
        if before.sequence in ended:
            judged += 1
            assert conversion.seconds(after.header.stamp) > ended[before.sequence]
            assert conversion.seconds(after.inference_started) > ended[before.sequence]
    assert judged >= 5
    arrived = {s.action_sequence for s in messages.arm_states if s.outcome == ours.ArmState.ARRIVED}
    assert len(arrived) >= 4


def test_arrival_is_where_the_command_said(running: Running, messages: Messages) -> None:
    """Hazard: ARRIVED that is announced, not measured, or a target in another frame than the measured pose."""
    running.activate("blocking")
    running.wait("3 arrivals", lambda: sum(s.outcome == ours.ArmState.ARRIVED for s in messages.arm_states) > 3, 60)
    running.operator.transition("policy", "deactivate")
    for state in messages.arm_states:
        if state.outcome == ours.ArmState.ARRIVED and state.header.stamp == state.outcome_stamp:
            translation, rotation = conversion.pose(state.end_effector).motion_to(conversion.pose(state.target))
            assert np.linalg.norm(translation) < 0.011
            assert np.linalg.norm(rotation) < 0.06


def test_mode_changes_only_while_inactive(running: Running) -> None:
    """Hazard: a loop that is replaced under a running motion."""
    running.activate("non_blocking")
    with pytest.raises(Exception, match="deactivate it first"):
        running.operator.set_parameters("policy", mode="blocking")
    running.operator.transition("policy", "deactivate")
    running.operator.set_parameters("policy", mode="blocking")


def test_a_new_instruction_is_what_the_next_actions_follow(running: Running, messages: Messages) -> None:
    """Hazard: the arm goes on with the old instruction, or an action for the old one is sent after the change."""
    running.activate("non_blocking", "lift the red block")
    running.wait("an action", lambda: len(messages.actions) >= 2, 30)
    running.operator.instruct("lift the blue block")
    running.wait("an action for the new one", lambda: messages.actions[-1].instruction == "lift the blue block", 10)
    count = len(messages.actions)
    running.wait("more actions", lambda: len(messages.actions) >= count + 3, 10)
    running.operator.transition("policy", "deactivate")
    assert {a.instruction for a in messages.actions[count - 1 :]} == {"lift the blue block"}
