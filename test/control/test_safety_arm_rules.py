"""The rules that need a model of the arm, each by itself; with any one switched off, its scenario fails.

The arm is the real description with the filter's own model; behind it plans the driver's own kinematics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mink")

from judged_arm import OFFSET
from safety_arm import ArmScene, parts, share
from safety_scene import Scene, codes

from openvla_ros.control.safety import State, Verdict, rules
from openvla_ros.control.safety.arm import Approach, JointPath
from openvla_ros.types import ArmState, Outcome

NAMES = ("wx250s", "panda")
Check = Callable[[], None]
SCENARIOS: dict[str, Check] = {}
OFF: dict[str, Any] = {  # bands so narrow, limits so wide, that other rules stay out of a scenario
    "singularity": {"slow_down": 2e-6, "stop": 1e-6},
    "collision": {"self_slow_down_m": 2e-6, "self_stop_m": 1e-6, "table_height_m": -5.0},
    "workspace": {"lower_m": (-0.7, -0.7, -0.5), "upper_m": (0.7, 0.7, 0.7)},
}
TILT = {"rotation_lower_rad": (-1.3, -1.3, -1.57), "rotation_upper_rad": (1.3, 1.3, 1.57)}


def scenario(rule: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        SCENARIOS[rule] = check
        return check

    return register


def scene(q: Any = None, name: str = "wx250s", **sections: Any) -> ArmScene:
    robot, model, _ = parts(name)
    box = {**OFF["workspace"], "upper_m": (0.7, 0.7, 1.0)}
    box["reference_quaternion"] = tuple(model.forward(robot.pose("start")).quaternion.tolist())
    wide = OFF if name == "wx250s" else {**OFF, "workspace": box}
    return ArmScene(name, q, **{**wide, **sections})


def report(decision: Any, code: str) -> Any:
    return next(r for r in decision.reports if r.rule == code)


@scenario("Reachable")
def unreachable() -> None:
    """Hazard: a target beyond the arm's reach: the driver refuses every command, and the arm is stuck for minutes."""
    arm = scene(singularity={"slow_down": 2e-6, "stop": 1e-6}, joints={"speed_fraction": 0.98})
    fired = set()
    for _ in range(30):
        fired |= codes(arm.step((0.03, 0, 0)))
        assert not arm.refusals
    assert "unreachable" in fired
    assert np.linalg.norm(arm.model.forward(arm.q).position) < arm.model.reach


@scenario("JointRange")
def joint_range() -> None:
    """Hazard: the wrist at its stop; the target goes on, the driver refuses, and coming back takes minutes."""
    arm = scene(workspace={**OFF["workspace"], **TILT})
    for _ in range(12):
        decision = arm.step((0, 0, 0), (0, 0.2, 0))
        assert not arm.refusals
    found = report(decision, "joint_range")
    limit = arm.robot.upper[4] - 0.03
    assert "wrist_angle" in found.detail
    assert (found.limit, found.allowed) == (pytest.approx(limit), pytest.approx(limit, abs=0.01))
    assert found.asked > limit
    assert share(arm.step((0, 0, 0), (0, -0.2, 0))) > 0.7  # back is free
    for _ in range(4):
        arm.step((0, 0, 0), (0, 0.2, 0))
    decision = arm.step((0, 0.03, 0), (0, 0.2, 0))  # the arm slides along its limit
    assert decision.filtered is not None
    assert decision.filtered.translation[1] == pytest.approx(0.03)


@scenario("JointSpeed")
def joint_speed() -> None:
    """Hazard: beside the wrist's singularity a small turn of the end effector needs a joint faster than it can."""
    arm = scene(
        q=[0.0, -0.3, 0.5, 0.0, 0.06, 0.0], workspace={**OFF["workspace"], "reference_quaternion": (0, 0, 0, 1)}
    )
    decision = arm.step((0, 0, 0), (0, 0, 0.2))
    assert not arm.refusals
    found = report(decision, "joint_speed")
    assert found.limit == pytest.approx(0.9 * np.pi)
    assert found.asked > found.limit >= found.allowed > 0
    assert 0 < abs(decision.filtered.rotation[2]) < 0.2


@scenario("Singularity")
def singularity() -> None:
    """Hazard: the arm stretches out slowly, and at the end loses a direction."""
    arm = scene(singularity={})
    values = []
    for _ in range(60):
        decision = arm.step((0.01, 0, 0.004))
        values.append(arm.model.smallest_singular_value(arm.q))
    assert not arm.refusals
    found = report(decision, "singularity")
    assert found.limit == 0.02
    assert found.asked < found.allowed
    assert 0.02 <= min(values) < 0.025
    falls = -np.diff(values)
    inside = np.array(values[1:]) < 0.05
    # Ever more slowly, but for the driver's own tolerance of 0.1 mm.
    assert (falls[inside] <= np.maximum(np.array(values[1:])[inside] - 0.02, 0) + 1e-4).all()
    assert arm.step((-0.01, 0, -0.004)).verdict is Verdict.ACCEPTED


def test_a_singularity_is_not_jumped_over() -> None:
    """Hazard: the wrist straight in the middle of a step, bent to the other side at its end."""
    bent = {
        "q": [0.0, -0.3, 0.5, 0.0, 0.14, 0.0],
        "workspace": {**OFF["workspace"], "reference_quaternion": (0, 0, 0, 1)},
    }
    through = scene(**bent).step((0, 0, 0), (0, -0.25, 0))
    assert through.filtered.rotation[1] == -0.25  # only two joints need move: nothing else objects
    decision = scene(**bent, singularity={}).step((0, 0, 0), (0, -0.25, 0))
    assert report(decision, "singularity").asked < 0.01
    assert decision.filtered.rotation[1] > -0.03


@scenario("SelfCollision")
def self_collision() -> None:
    """Hazard: the gripper is drawn back into the arm's own foot."""
    arm = scene(collision={"table_height_m": -5.0}, workspace={**OFF["workspace"], **TILT})
    fired: set[str] = set()
    for _ in range(80):
        decision = arm.step((-0.01, 0.001, -0.006))
        fired |= codes(decision)
        assert arm.model.distances(arm.q, 0.03).min() >= 0.01 - 1e-6
    assert not arm.refusals
    assert "self_collision" in fired
    assert share(arm.step((0.01, 0, 0.006))) == pytest.approx(0.2)


@scenario("TableCollision")
def table() -> None:
    """Hazard: the end effector's point is high enough, but the tilted gripper's fingertip is in the table."""
    arm = scene(collision={**OFF["collision"], "table_height_m": -0.02}, workspace={**OFF["workspace"], **TILT})
    fired: set[str] = set()
    for _ in range(40):
        fired |= codes(arm.step((0, 0, -0.02)))
        assert arm.model.heights(arm.q).min() >= -0.02 + 0.003 - 1e-6
    assert "table_collision" in fired
    low = arm.model.heights(arm.q).min()
    assert low == pytest.approx(-0.017, abs=1e-3)
    for _ in range(5):
        decision = arm.step((0, 0, -0.02), (0.1, 0, 0))
        assert arm.model.heights(arm.q).min() >= -0.017 - 1e-6
    assert report(decision, "table_collision").limit == 0.003
    decision = arm.step((0, 0.02, -0.02))
    assert decision.filtered.translation[1] == pytest.approx(0.02)  # along the table
    assert arm.step((0, 0, 0.02)).verdict is Verdict.ACCEPTED
    assert not arm.refusals


@scenario("KeepOutArm")
def keep_out_arm() -> None:
    """Hazard: the end effector's point passes beside a post, and the wrist knocks it over."""
    for name, link in zip(NAMES, ("wrist_link", "link6"), strict=True):
        free = scene(name=name)
        for _ in range(12):
            free.step((0, 0.025, 0))
        least, greatest = (e[free.model.link_names.index(link)] for e in free.model.extents(free.q))
        middle = (least + greatest) / 2
        post = (tuple((middle - 0.02).tolist()), tuple((middle + 0.02).tolist()))
        arm = scene(name=name, keep_out=[{"name": "post", "lower_m": post[0], "upper_m": post[1]}])
        among = arm.model.among((post,))
        fired: set[str] = set()
        distances = [0.1]
        for _ in range(12):
            fired |= codes(arm.step((0, 0.025, 0)))
            distances.append(among.obstacle_distances(arm.q, 0.1).min())
        assert min(distances) >= 0.01 - 2e-4
        assert min(distances) < 0.03
        assert "keep_out_arm" in fired
        assert "keep_out" not in fired  # of the end effector's point
        assert share(arm.step((0, -0.025, 0))) == pytest.approx(0.5)  # leaving is free
        assert not arm.refusals


@scenario("WholeArm")
def whole_arm() -> None:
    """Hazard: the end effector is well inside its box, the elbow hits the ceiling of the cage."""
    for name in NAMES:
        arm = scene(name=name)
        ceiling = float(arm.model.extents(arm.q)[1][:, 2].max()) + 0.05
        arm = scene(name=name, whole_arm={"upper_m": (2.0, 2.0, ceiling)})
        fired: set[str] = set()
        for _ in range(30):
            fired |= codes(arm.step((-0.005, 0, 0.015)))
            assert arm.model.extents(arm.q)[1][:, 2].max() <= ceiling - 0.01 + 2e-4
        assert "whole_arm" in fired
        assert "workspace" not in fired
        assert arm.model.forward(arm.q).position[2] < ceiling - 0.05
        assert share(arm.step((0, 0, -0.02))) == pytest.approx(0.4)
        assert not arm.refusals


@scenario("LinkSpeed")
def link_speed() -> None:
    """Hazard: the end effector's point stands still and turns, and the arm behind it sweeps through the room."""
    for name in NAMES:
        arm = scene(name=name, motion={"max_link_speed_m_s": 0.1})
        decision = arm.step((0, 0, 0), (0.24, 0, 0))
        found = report(decision, "link_speed")
        assert found.asked > 0.15
        assert 0 < found.allowed <= found.limit == 0.1
        arm.tick(0.3)
        told = arm.model.corners(np.array(arm.told))  # what it was told, at 1 ms
        fastest = np.linalg.norm(np.diff(told, axis=1), axis=2).max() / 0.001
        assert 0.07 < fastest < 0.1 + 2e-3
        assert not arm.refusals


REGISTERED = {rule.__name__: rule for rule in rules.ARM_RULES}


def test_every_arm_rule_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(REGISTERED)


@pytest.mark.parametrize("name", REGISTERED)
def test_rule(name: str) -> None:
    SCENARIOS[name]()


@pytest.mark.parametrize("name", REGISTERED)
def test_no_rule_can_be_switched_off_unnoticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: a rule that is registered but does nothing, or whose test cannot fail."""
    monkeypatch.setattr(rules, "ARM_RULES", tuple(r for r in rules.ARM_RULES if r is not REGISTERED[name]))
    with pytest.raises((AssertionError, StopIteration)):
        SCENARIOS[name]()


def test_without_an_arm_model_the_status_says_what_is_not_checked() -> None:
    """Hazard: everybody believes that the joints are watched."""
    assert "no_arm_model" in codes(Scene().tick())
    assert "no_arm_model" not in codes(ArmScene().tick(0.1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: replace(state, joint_positions=np.zeros(7)), "7 joints were measured, the arm model has 6"),
        (lambda state: replace(state, joint_positions=state.joint_positions + 0.1), "wrong robot?"),
    ],
)
def test_a_state_of_another_arm_counts_as_missing(change: Callable[[ArmState], ArmState], said: str) -> None:
    """Hazard: the filter was started for another robot than the driver, and checks joints that do not exist."""
    robot, model, _ = parts("wx250s")
    q = robot.pose("start")
    state = ArmState(1000.0, model.forward(q), np.zeros(3), np.zeros(3), q, np.zeros(6), 1.0)
    arm = ArmScene()
    arm.filter.on_arm_state(replace(change(state), stamp=arm.now))
    (found,) = [r for r in arm.filter.tick(arm.now).reports if r.rule == "arm_state"]
    assert said in found.detail


def says(arm: ArmScene, sequence: int, outcome: Outcome, detail: str = "") -> None:
    """An arm state in which the driver tells what became of a command."""
    told = arm.driver.told(arm.now + OFFSET)
    assert told is not None
    driver = replace(told, command_sequence=sequence, outcome=outcome, detail=detail)
    arm.filter.on_arm_state(replace(arm.state(arm.q), driver=driver))


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.HELD, Outcome.TIMED_OUT])
def test_what_the_driver_does_by_itself_is_heard(outcome: Outcome) -> None:
    """Hazard: wind-up. The driver refuses or holds; the filter builds the next target on its old one, which is
    refused, too, or leads faster than allowed."""
    arm = ArmScene()
    arm.step((0.01, 0, 0), dt=0.15)
    target = arm.filter.last_command
    assert target is not None
    says(arm, target.sequence - 1, outcome, "an older command")  # says nothing of the last one
    assert arm.filter.tick(arm.now).state is State.ACTIVE
    says(arm, target.sequence, outcome, "elbow at a joint limit")
    decision = arm.filter.tick(arm.now)
    assert decision.command is not None
    assert decision.command.hold
    assert decision.command.action_sequence == target.action_sequence  # blocking control learns what became of it
    assert (decision.state, codes(decision)) == (State.HOLDING, {"driver", "watchdog"})
    assert "elbow at a joint limit" in decision.reports[0].detail
    says(arm, target.sequence, outcome, "elbow at a joint limit")  # the driver repeats it until it has a new command
    assert arm.filter.tick(arm.now).command is None
    refused = arm.act((0.01, 0, 0))
    assert (refused.verdict, codes(refused)) == (Verdict.REFUSED, {"driver"})  # before the driver has the hold
    arm._pass_on(decision)
    arm.run(0.2)
    before = arm.model.forward(arm.q).position
    decision = arm.step((0.01, 0, 0))
    assert (decision.verdict, decision.command.continues) == (Verdict.ACCEPTED, 0)
    np.testing.assert_allclose(decision.command.target.position - before, (0.01, 0, 0), atol=1e-5)


def test_an_action_that_comes_with_a_refusal_is_not_built_on_it() -> None:
    """Hazard: the next action arrives before the timer has looked at what the driver says."""
    arm = ArmScene()
    arm.step((0.01, 0, 0))
    says(arm, arm.filter.last_command.sequence, Outcome.REFUSED, "not reachable")
    decision = arm.act((0.01, 0, 0))
    assert decision.verdict is Verdict.REFUSED
    assert decision.command.hold
    assert codes(decision) == {"driver"}


def test_a_hold_that_the_driver_has_not_taken_is_said_again() -> None:
    """Hazard: the one message that stops the arm is lost."""
    arm = ArmScene()
    arm.step((0.02, 0, 0), dt=0.1)
    arm.carry = lambda command, now: []
    arm._pass_on(arm.filter.stop("keyboard", arm.now))
    arm.run(0.05)
    assert len(arm.commands) == 2
    arm.run(0.4)
    assert all(command.hold for command in arm.commands[1:])
    assert 4 <= len(arm.commands) <= 6
    arm.carry = lambda command, now: [(command, 0.0)]
    arm.run(0.2)
    count = len(arm.commands)
    arm.run(1.0)
    assert len(arm.commands) == count


def test_an_arm_that_was_found_elsewhere_stops_the_filter_until_somebody_looked() -> None:
    """Hazard: the joints' encoders slipped, or the arm was moved while nobody looked; control goes on from there."""
    arm = ArmScene()
    arm.step((0.02, 0, 0))
    arm.q = arm.q + np.array([0.8, 0, 0, 0, 0, 0])
    arm.blocked = True
    arm.run(1.0)
    assert arm.filter.state is State.STOPPED
    assert "displaced" in arm.filter.stop_reason
    done, why = arm.reset()
    assert done, why
    arm.run(0.2)
    assert arm.filter.state is State.PAUSED
    assert arm.filter.resume(arm.now)[0]
    arm.run(0.05)
    decision = arm.step((0, 0.01, 0))
    assert decision.verdict is Verdict.ACCEPTED
    np.testing.assert_allclose(decision.command.path.positions[0], arm.q, atol=0.03)


def test_a_joint_beyond_its_margin_may_come_back_and_go_no_further() -> None:
    """Hazard: an arm that was switched off at its stop can never be moved again, or is pushed into it."""
    q = parts("wx250s")[0].pose("start")
    q[4] = parts("wx250s")[0].upper[4] - 0.005
    outwards, inwards = (
        scene(q=q, workspace={**OFF["workspace"], **TILT}),
        scene(q=q, workspace={**OFF["workspace"], **TILT}),
    )
    outwards.step((0, 0, 0), (0, 0.1, 0))
    outwards.tick(0.3)
    assert outwards.q[4] <= q[4] + 1e-4
    assert inwards.step((0, 0, 0), (0, -0.1, 0)).verdict is Verdict.ACCEPTED
    assert not outwards.refusals + inwards.refusals


def test_an_arm_that_is_far_from_what_it_is_told_is_let_go_first() -> None:
    """Hazard: somebody leans on the arm; the next step is judged from where it is told to be."""
    arm = ArmScene()
    arm.step((0, 0.005, 0), dt=0.5)
    arm.filter.stop("keyboard", arm.now)
    arm.reset()
    arm.filter.resume(arm.now)
    arm.run(0.1)
    arm.blocked, arm.lag = True, 0.1
    for _ in range(20):
        arm.q = arm.q - np.array([0.015, 0, 0, 0, 0, 0])
        arm.run(0.01)
    assert codes(arm.act((0, 0.005, 0))) == {"driver", "unexpected_motion"}
    arm.run(3.0)
    decision = arm.act((0, 0.005, 0))
    np.testing.assert_allclose(decision.command.path.positions[0], arm.q, atol=0.01)


def test_the_fall_towards_a_limit_is_bounded_by_what_is_left() -> None:
    """Hazard: the last step before a limit is as fast as the first."""

    def excess(before: list[float], after: list[float], time: float) -> Any:
        rows = np.array([before, after])
        path = JointPath(np.array([5.0, 5.0 + time]), rows, rows, tuple(rows), True, lambda: None)
        return Approach(0.05, 0.02, 0.2).excess(path, lambda row: row) > 1e-12

    before, after = [0.2, 0.04, 0.04, 0.01, 0.01], [0.035, 0.03, 0.029, 0.009, 0.02]
    assert excess(before, after, 0.2).tolist() == [False, False, True, True, False]
    assert excess([0.04], [0.03], 0.1)  # half the time, half the way
