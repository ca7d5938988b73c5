"""The graph without ROS: the same parts, asked as the nodes ask them, and the same result every time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from openvla_ros.control.safety import SafetyConfig
from openvla_ros.control.safety.decision import Verdict
from openvla_ros.errors import ConfigError, PolicyError
from openvla_ros.experiments.lockstep import Lockstep, LockstepConfig
from openvla_ros.experiments.rollout import Limits, expert, rollout
from openvla_ros.types import Action, Outcome

LIFT = "lift the red block"


def moving(x=0.0, y=0.0, z=0.0, gripper=1.0):
    return lambda _: Action(np.array([x, y, z]), np.zeros(3), gripper)


@pytest.fixture(scope="module")
def lockstep():
    with Lockstep(LockstepConfig(image_size=(64, 48))) as made:
        yield made


def run(lockstep, policy, seconds, labeller=None):
    while lockstep.now < seconds:
        lockstep.tick(policy, labeller)
    return lockstep.run.steps


def test_the_same_seed_is_the_same_episode(lockstep):
    """Two policies can only be compared on scenes, and a recording only be resumed, if nothing else decides."""
    ends = []
    for _ in range(2):
        outcome = rollout(lockstep, expert, 7, LIFT, mode="non_blocking", latency=0.17)
        ends.append((outcome, lockstep.world.places()))
        rollout(lockstep, expert, 8, LIFT, limits=Limits(max_steps=3))  # what was before must not matter
    assert ends[0][0] == ends[1][0]
    np.testing.assert_array_equal(ends[0][1], ends[1][1])


def test_non_blocking_keeps_5_hz_whatever_the_latency_below_the_period(lockstep):
    for latency in (0.0, 0.17):
        lockstep.reset(0, LIFT, "non_blocking", latency)
        steps = run(lockstep, moving(z=-0.005), 3.0)
        # A timer of 10 ms asks: an inference may begin one tick late, and the grid of periods stays.
        np.testing.assert_allclose([s.started - steps[0].started for s in steps], 0.2 * np.arange(15), atol=0.0101)
        np.testing.assert_allclose([s.ended - s.started for s in steps], latency, atol=1e-9)


def test_slow_inference_lowers_the_rate_and_nothing_is_caught_up(lockstep):
    lockstep.reset(0, LIFT, "non_blocking", 0.45)
    steps = run(lockstep, moving(z=-0.005), 4.0)
    assert np.diff([s.started for s in steps]).min() >= 0.45 - 1e-9


def test_blocking_infers_on_an_image_from_after_the_measured_arrival(lockstep):
    """'Blocking' that only sleeps would show the policy an arm that still moves."""
    lockstep.reset(0, LIFT, "blocking", 0.1)
    steps = run(lockstep, moving(z=-0.02), 5.0)
    assert len(steps) > 5
    for before, after in pairwise(steps):
        assert before.after is not None
        assert before.after.outcome is Outcome.ARRIVED
        assert after.observation.stamp > before.after.outcome_stamp
        state = after.observation.report.state
        assert np.linalg.norm(state.linear_velocity) < 0.02
        target = before.after.command.target.position
        assert np.linalg.norm(state.pose.position - target) < 0.01


def test_a_policy_sees_the_moment_of_the_image_not_of_the_action(lockstep):
    """With the state of a later moment a slow policy would look fast: latency would cost nothing."""
    lockstep.reset(0, LIFT, "non_blocking", 0.17)
    steps = run(lockstep, moving(y=0.015), 3.0)
    last = steps[-1]
    now = lockstep.world.arm_positions()
    assert np.abs(last.observation.report.state.joint_positions - now).max() > 0.02
    seen = last.observation.view.hand.position
    np.testing.assert_array_equal(seen, last.observation.report.state.pose.position)
    np.testing.assert_array_equal(last.observation.image, last.observation.image)
    assert (last.observation.image != lockstep.draw(lockstep.world.places())).any(), "the arm has moved on since"


def test_every_action_passes_the_safety_filter(lockstep):
    lockstep.reset(0, LIFT, "non_blocking", 0.0)
    steps = run(lockstep, moving(z=float("nan")), 1.0)
    assert {s.decision.verdict for s in steps} == {Verdict.REFUSED}
    np.testing.assert_allclose(lockstep.world.arm_positions(), lockstep.robot.pose("start"), atol=2e-3)
    lockstep.reset(0, LIFT, "non_blocking", 0.0)
    steps = run(lockstep, moving(y=-0.5), 3.0)
    assert {s.decision.verdict for s in steps} == {Verdict.LIMITED}
    lowest = SafetyConfig().workspace.lower_m[1]
    assert lockstep._report.state.pose.position[1] > lowest - 0.01


def test_blocking_goes_on_after_a_refused_action(lockstep):
    """An action that the filter refuses has no outcome: waiting for it would end the episode there."""
    lockstep.reset(0, LIFT, "blocking", 0.0)
    assert len(run(lockstep, moving(z=float("nan")), 2.0)) > 5


def test_a_policy_without_an_action_moves_nothing_and_is_counted(lockstep):
    def silent(_):
        raise PolicyError("nothing to be seen")

    outcome = rollout(lockstep, silent, 3, LIFT, limits=Limits(max_steps=4), latency=0.17)
    assert outcome.no_action == {"nothing to be seen": 4}
    assert (outcome.steps, outcome.success) == (0, False)
    np.testing.assert_allclose(lockstep.world.arm_positions(), lockstep.robot.pose("start"), atol=2e-3)


def test_an_instruction_that_changes_voids_the_inference_in_flight(lockstep):
    lockstep.reset(0, LIFT, "non_blocking", 0.17)
    run(lockstep, moving(z=-0.005), 0.1)
    lockstep.instruct("lift the blue block")
    steps = run(lockstep, moving(z=-0.005), 0.6)
    assert {s.observation.instruction for s in steps} == {"lift the blue block"}
    assert lockstep._loop.report.dropped == 1


def test_labels_are_of_the_same_image_as_the_action(lockstep):
    lockstep.reset(0, LIFT, "non_blocking", 0.17)
    for step in run(lockstep, moving(x=0.01), 1.0, labeller=expert):
        np.testing.assert_array_equal(step.label.to_array(), expert(step.observation).to_array())
        assert step.action.translation.tolist() == [0.01, 0, 0]


@pytest.mark.parametrize(("mode", "latency"), [("blocking", 0.0), ("non_blocking", 0.0), ("non_blocking", 0.17)])
def test_the_expert_does_both_tasks(lockstep, mode, latency):
    for seed, instruction in enumerate((LIFT, "put the blue block on the plate")):
        outcome = rollout(lockstep, expert, 40 + seed, instruction, mode=mode, latency=latency)
        assert outcome.success
        assert not outcome.others
        assert outcome.steps < 80


def test_a_block_that_the_instruction_does_not_name_is_noticed(lockstep):
    def deaf(observation):
        task = "lift the green block"
        return expert(type(observation)(task, observation.stamp, observation.report, observation._places, lockstep))

    outcome = rollout(lockstep, deaf, 5, LIFT, mode="non_blocking", limits=Limits(max_steps=45))
    assert outcome.success is False
    assert outcome.others == {"green"}


def test_an_instruction_that_nobody_can_judge(lockstep):
    outcome = rollout(lockstep, expert, 1, "lift the yellow block", limits=Limits(max_steps=3))
    assert outcome.success is None
    assert next(iter(outcome.no_action)).startswith("the expert knows no 'lift the yellow block'")


def test_unknown_mode_is_named():
    with pytest.raises(ConfigError, match="sleeping"):
        Lockstep(LockstepConfig(mode="sleeping"))
