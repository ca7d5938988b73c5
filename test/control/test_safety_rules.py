"""Every rule by itself, and the proof that each is needed: with any one switched off, its scenario fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safety_scene import DOWN, START, Scene, action, codes, shifted, turned
from scipy.spatial.transform import Rotation

from openvla_ros import geometry
from openvla_ros.control.safety import State, Verdict, rules
from openvla_ros.control.safety.motion import share_until
from openvla_ros.control.safety.rules.tracking import share_within_angle, share_within_ball
from openvla_ros.types import Pose

Check = Callable[[], None]
SCENARIOS: dict[str, Check] = {}


def scenario(rule: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        SCENARIOS[rule] = check
        return check

    return register


def at(x: float = 0.3, y: float = 0.0, z: float = 0.2) -> Pose:
    return Pose(np.array([x, y, z]), DOWN)


@scenario("Finite")
def not_finite() -> None:
    """Hazard: a NaN in the gripper passes every comparison. Whoever says it may have been wrong just before, too."""
    scene = Scene()
    assert codes(scene.step(gripper=math.nan)) == {"not_finite"}
    assert scene.step((0.01, 0, 0)).state is State.ACTIVE
    decision = scene.step(gripper=math.nan, dt=0.05)
    assert decision.state is State.HOLDING
    assert decision.command is not None
    assert decision.command.hold
    assert scene.step(gripper=math.nan, dt=0.05).command is None  # once


@scenario("Plausible")
def implausible() -> None:
    """Hazard: millimetres taken for metres; scaled down, the arm would drive off at full speed."""
    scene = Scene()
    for xyz, rpy, duration in (
        ((30.0, 0, 0), (0, 0, 0), 0.2),
        ((0, 0, 0), (0, 90.0, 0), 0.2),
        ((0, 0, 0), (0, 0, 0), 0.0),
    ):
        assert scene.step(xyz, rpy, duration=duration).verdict is Verdict.REFUSED
    assert scene.step(duration=-0.2).verdict is Verdict.REFUSED


@scenario("Fresh")
def stale() -> None:
    """Hazard: an action that was stuck somewhere; a frozen camera; a clock that is ahead; a lost arm state."""
    scene = Scene()
    for changes, code in (
        ({"stamp": -0.3}, "stale_action"),
        ({"observation_stamp": -1.1}, "stale_observation"),
        ({"stamp": 0.1}, "future_stamp"),
        ({"observation_stamp": 0.1}, "future_stamp"),
    ):
        scene.tick(5.0)
        ((name, offset),) = changes.items()
        decision = scene.step((0.01, 0, 0), **{name: scene.now + 0.2 + offset})
        assert decision.verdict is Verdict.REFUSED, changes
        assert code in codes(decision)
    decision = scene.step((0.01, 0, 0), stamp=scene.now + 0.2 - 0.2, observation_stamp=scene.now + 0.2 - 0.1)
    assert codes(decision) == {"future_stamp"}  # older than the image behind it


@scenario("Order")
def out_of_order() -> None:
    """Hazard: a delta that is executed twice, or after a newer one."""
    scene = Scene()
    scene.tick(0.1)
    first = scene.stamped(action((0.01, 0, 0)))
    assert scene.give(first).verdict is Verdict.ACCEPTED
    scene.tick(0.1)
    assert codes(scene.give(first)) == {"sequence"}
    late = scene.stamped(action((0.01, 0, 0)))
    assert scene.step((0.01, 0, 0)).verdict is Verdict.ACCEPTED
    scene.tick(0.03)
    assert codes(scene.give(late)) == {"sequence"}
    scene.tick(0.2)
    assert codes(scene.step((0.01, 0, 0), observation_stamp=scene.now - 0.3)) == {
        "sequence"
    }  # newer, on an older image


@scenario("Rate")
def flood() -> None:
    """Hazard: actions at 10 kHz; each command restarts the driver's trajectory."""
    scene = Scene()
    passed = sum(scene.step((0.001, 0, 0), dt=0.0001).command is not None for _ in range(1000))
    assert passed <= 6


@scenario("Latch")
def latched() -> None:
    """Hazard: a stop that lasts until the next action."""
    scene = Scene()
    scene.filter.stop("keyboard", scene.now)
    assert scene.step((0.01, 0, 0)).command is None


@scenario("Paused")
def paused() -> None:
    """Hazard: the stop is reset, and the policy, still active, moves the arm at once."""
    scene = Scene()
    scene.filter.stop("keyboard", scene.now)
    scene.tick(0.1)
    assert scene.filter.reset(scene.now)[0]
    assert scene.tick(0.1).state is State.PAUSED
    decision = scene.step((0.01, 0, 0), control_since=scene.now - 5)
    assert (decision.verdict, codes(decision)) == (Verdict.REFUSED, {"paused"})
    assert scene.tick(5.0).state is State.PAUSED
    assert scene.step((0.01, 0, 0), control_since=scene.now).verdict is Verdict.ACCEPTED  # activated since
    assert scene.step((0.01, 0, 0), control_since=scene.now - 9).verdict is Verdict.ACCEPTED


@scenario("Duration")
def duration() -> None:
    """Hazard: a motion in no time at all; one that lasts for minutes; one that ends before the one under it."""
    window = 0.1  # [s] that each takes longer: it begins and ends smoothly
    scene = Scene()
    assert scene.step((0.001, 0, 0), duration=0.001).command.duration == pytest.approx(0.05 + window)
    assert scene.step((0.001, 0, 0), duration=60).command.duration == pytest.approx(2.0 + window)
    scene.tick(3.0)
    assert scene.step((0.05, 0, 0), duration=1.0).command.duration == pytest.approx(1.0 + window)
    decision = scene.step((0, 0, 0), dt=0.1, duration=0.05)  # 90 % of the last motion is left
    assert decision.command.duration == pytest.approx(0.9 + window)


@scenario("RampIn")
def ramp_in() -> None:
    """Hazard: full speed from the first action on."""
    decision = Scene(ramp=True).step((0.03, 0.04, 0), (0, 0, 0.25), duration=1.0)
    np.testing.assert_allclose(decision.filtered.translation, (0.0075, 0.01, 0))
    np.testing.assert_allclose(decision.filtered.rotation, (0, 0, 0.0625), atol=1e-12)


@scenario("StepSize")
def step() -> None:
    """Hazard: clipped per component, a long step changes its direction."""
    decision = Scene().step((0.06, 0.08, 0), (0.3, 0, -0.4), duration=1.0)
    assert decision.verdict is Verdict.LIMITED
    np.testing.assert_allclose(decision.filtered.translation, (0.03, 0.04, 0))
    rotvec = geometry.to_rotvec(geometry.from_rpy(np.array([0.3, 0, -0.4])))
    passed = geometry.to_rotvec(geometry.from_rpy(decision.filtered.rotation))
    np.testing.assert_allclose(passed, 0.25 * rotvec / np.linalg.norm(rotvec), atol=1e-9)


@scenario("Pace")
def pace() -> None:
    """Hazard: a small step in a short time; from full speed forwards to full speed backwards within one step."""
    quick = {"max_acceleration_m_s2": 13.0, "max_acceleration_rad_s2": 60.0}
    decision = Scene(motion=quick).step((0.04, 0, 0), (0, 0, 0.2), duration=0.1)
    assert codes(decision) == {"speed"}
    assert decision.filtered.translation[0] == pytest.approx(0.025)
    assert decision.filtered.rotation[2] == pytest.approx(0.125)
    scene = Scene(motion={"max_acceleration_m_s2": 0.5, "max_acceleration_rad_s2": 2.5})
    decision = scene.step((0.05, 0, 0), (0, 0, 0.25), dt=0.19)  # smoothed over 0.5 s
    assert (decision.verdict, decision.command.duration) == (Verdict.ACCEPTED, pytest.approx(0.7))


def test_a_slow_first_action_is_as_slow_as_the_ramp_says() -> None:
    """Hazard: small steps at a high rate are a full-speed motion; the ramp bounds the speed, too."""
    scene = Scene(ramp=True)
    fired = set()
    for _ in range(8):
        fired |= codes(scene.step((0.01, 0, 0), dt=0.025, duration=0.05))
    assert "ramp_in" in fired
    moved = scene.pose.position[0] - START.position[0]
    assert 0.01 < moved < 0.25 * 0.4 * 0.3  # [m] in 0.2 s and the smoothing, at up to 40 % of the speed


def test_a_step_back_waits_for_the_step_before_and_passes_whole() -> None:
    """Hazard: a policy that turns round is cut to nothing, because the arm cannot turn round at once."""
    scene = Scene()
    scene.step((0.05, 0, 0))
    decision = scene.step((-0.05, 0, 0))
    assert decision.verdict is Verdict.ACCEPTED
    assert decision.command.duration == pytest.approx(0.4)  # 0.1 s to rest, then its own 0.3 s


@scenario("Tracking")
def tracking() -> None:
    """Hazard: a blocked arm winds up and shoots off when it is freed; a pushed arm springs back into the hand."""
    scene = Scene(follow=False)
    for _ in range(20):
        target = scene.step((0, 0.03, 0), (0, 0, 0.2), dt=0.4).command.target
    distance, angle = geometry.errors(scene.pose, target)
    assert distance == pytest.approx(0.10)
    assert angle == pytest.approx(0.6)
    assert scene.step((0, -0.03, 0)).verdict is Verdict.ACCEPTED  # back is free
    scene.pose = Pose(scene.pose.position - (0, 0.1, 0), DOWN)
    decision = scene.step((0, -0.01, 0), dt=0.4)
    assert decision.verdict is Verdict.REFUSED
    assert decision.command.hold
    assert decision.state is State.HOLDING
    decision = scene.step((0, -0.01, 0))
    np.testing.assert_allclose(decision.command.target.position, scene.pose.position - (0, 0.01, 0))


@scenario("Workspace")
def workspace() -> None:
    """Hazard: the table, the edge of the reach, the camera stand; a wrist that turns until its cable tears."""
    scene = Scene()
    for direction in ((1, 0, 0), (0, 1, 0), (0, 0, -1), (-1, 0, 0), (0, -1, 0), (0, 0, 1)):
        for _ in range(20):
            scene.step(0.05 * np.array(direction))
    np.testing.assert_allclose(scene.pose.position, (0.10, -0.20, 0.30), atol=1e-9)
    for axis in range(3):
        scene = Scene()
        for _ in range(20):
            decision = scene.step((0, 0, 0), 0.25 * np.eye(3)[axis])
        assert "workspace" in codes(decision)
        relative = geometry.to_rotvec(geometry.between(DOWN, scene.pose.quaternion))
        np.testing.assert_allclose(relative, (1.0, 1.0, 1.57) * np.eye(3)[axis], atol=1e-5)


@scenario("KeepOut")
def keep_out() -> None:
    """Hazard: a post thinner than a step is jumped through."""
    post = {"name": "post", "lower_m": (0.29, 0.05, 0.0), "upper_m": (0.31, 0.06, 0.3)}
    scene = Scene(pose=at(0.3, 0.03), keep_out=[post])
    decision = scene.step((0, 0.05, 0))
    assert codes(decision) == {"keep_out"}
    assert scene.pose.position[1] == pytest.approx(0.049, abs=1e-4)
    assert scene.pose.position[1] < 0.05
    assert scene.step((0.05, 0, 0)).verdict is Verdict.ACCEPTED  # along it is free


@scenario("GripperTarget")
def gripper() -> None:
    """Hazard: a dataset with gripper values of -1..1; and a gripper that is put through a step limit never closes."""
    scene = Scene(gripper={"min": 0.1, "max": 0.9})
    assert scene.step(gripper=-1.0).command.gripper == 0.1
    assert scene.step(gripper=7.0).command.gripper == 0.9
    assert scene.step((0.5, 0, 0), gripper=0.2).command.gripper == 0.2
    scene = Scene(gripper={"max_rate_per_s": 1.0})
    assert scene.step(gripper=0.0).command.gripper == pytest.approx(0.8)
    assert scene.step(gripper=0.0).command.gripper == pytest.approx(0.6)
    scene = Scene()  # by default open to closed in 0.1 s: one action at 5 Hz, early or not, several at 50 Hz
    assert scene.step(gripper=0.0).command.gripper == 0.0
    assert scene.step(gripper=1.0, dt=0.12).command.gripper == 1.0
    assert scene.step(gripper=0.0, dt=0.04).command.gripper == pytest.approx(0.6)


@scenario("Freeze")
def freeze() -> None:
    """Hazard: a policy that has stopped doing anything, unnoticed until the episode's last step."""
    scene = Scene(freeze={"actions": 3})
    fired = ["freeze" in codes(scene.step((0.0001, 0, 0))) for _ in range(4)]
    assert fired == [False, False, True, True]
    decision = scene.step(gripper=0.0)  # a closing gripper is not nothing
    assert codes(decision) == set()


@scenario("Wrench")
def wrench() -> None:
    """Hazard: pressing on a hand."""
    scene = Scene(contact={"max_force_n": 20.0, "max_torque_n_m": 5.0})
    assert scene.tick().state is State.STOPPED  # a limit that nobody measures
    scene.arm = {"wrench": np.zeros(6)}
    scene.tick(0.1)
    assert scene.rearm()[0]
    scene.step((0.01, 0, 0))
    scene.arm = {"wrench": np.array([0, 15, 15, 0, 0, 0.0])}
    decision = scene.tick(0.01)
    assert decision.state is State.STOPPED
    assert decision.command.hold
    assert not scene.filter.reset(scene.now)[0]  # the cause persists


@scenario("Effort")
def effort() -> None:
    """Hazard: a joint that pushes against something; limits for an arm with another number of joints."""
    scene = Scene(contact={"max_efforts_n_m": (10.0, 20, 15, 2, 5, 1)})
    assert "0 joint efforts" in scene.tick().reports[-1].detail
    scene.arm = {"joint_efforts": np.array([9, 19, 14, 1, 4, 0.9])}
    scene.tick(0.1)
    assert scene.rearm()[0]
    scene.arm = {"joint_efforts": np.array([9, 19, 14, -2.5, 4, 0.9])}
    decision = scene.tick(0.01)
    assert decision.state is State.STOPPED
    assert "joint 4" in scene.filter.stop_reason


@scenario("CameraSilence")
def camera_silence() -> None:
    """Hazard: the camera dies in mid-motion; the arm goes on blindly to where the last image sent it."""
    scene = Scene(camera={"timeout_s": 0.15})
    scene.filter.on_observation(scene.now)
    scene.step((0.01, 0, 0), dt=0.1)
    assert scene.tick(0.04).state is State.ACTIVE
    decision = scene.tick(0.02)
    assert decision.state is State.HOLDING
    assert decision.command is not None
    assert decision.command.hold
    assert codes(decision) == {"camera", "no_arm_model", "watchdog"}
    assert scene.tick(0.01).command is None  # once
    scene.filter.on_observation(scene.now)
    assert scene.step((0.01, 0, 0), dt=0.1).state is State.ACTIVE  # no latch


@scenario("CameraGate")
def camera() -> None:
    """Hazard: an inference that was in flight when the camera died moves the arm after it was held."""
    scene = Scene(camera={"timeout_s": 0.15})
    assert scene.step((0.01, 0, 0)).verdict is Verdict.REFUSED  # never heard
    scene.filter.on_observation(scene.now)
    assert scene.step((0.01, 0, 0), dt=0.1).verdict is Verdict.ACCEPTED
    scene.tick(0.1)
    decision = scene.step((0.01, 0, 0), dt=0.1)
    assert decision.verdict is Verdict.REFUSED
    assert "camera" in codes(decision)


@scenario("Deadman")
def deadman() -> None:
    """Hazard: nobody is watching."""
    scene = Scene(deadman={"timeout_s": 0.5})
    scene.filter.on_heartbeat(scene.now)
    scene.rearm()
    scene.step((0.01, 0, 0))
    assert scene.tick(0.6).state is State.STOPPED


@scenario("EStopSilence")
def e_stop_silence() -> None:
    """Hazard: the stop button's box has died, or its cable was pulled: a press would not be heard."""
    scene = Scene(e_stop={"timeout_s": 0.5})
    assert scene.tick(0.1).state is State.STOPPED  # never heard
    scene.filter.press(False, scene.now)
    assert scene.rearm()[0]
    scene.filter.press(False, scene.now)
    scene.step((0.01, 0, 0))
    scene.filter.press(False, scene.now)
    assert scene.tick(0.4).state is State.ACTIVE
    assert scene.tick(0.2).state is State.STOPPED
    done, why = scene.filter.reset(scene.now)
    assert not done
    assert "e_stop" in why


@scenario("Flood")
def flooded() -> None:
    """Hazard: a publisher of actions that has gone wild: whatever it asks for, it is not control. Not re-armed before
    it is over."""
    scene = Scene(rate={"max_actions_per_s": 100})
    for _ in range(100):
        assert scene.step(dt=0.001).state is not State.STOPPED
    assert scene.step(dt=0.001).state is State.STOPPED
    assert "flood" in scene.filter.stop_reason
    assert not scene.filter.reset(scene.now)[0]
    scene.tick(1.0)
    assert scene.rearm()[0]


def test_the_fastest_policy_is_no_flood() -> None:
    """Hazard: a rule against floods that stops an arm in proper control: 100 Hz, the loop's highest rate."""
    scene = Scene()
    for _ in range(500):
        assert scene.step((0.0001, 0, 0), dt=0.01).state is State.ACTIVE


REGISTRIES = {name: getattr(rules, name) for name in ("GATES", "LIMITS", "MONITORS", "PAUSES")}
REGISTERED = {rule.__name__: (name, rule) for name, registered in REGISTRIES.items() for rule in registered}


def test_every_rule_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(REGISTERED)


@pytest.mark.parametrize("name", REGISTERED)
def test_rule(name: str) -> None:
    SCENARIOS[name]()


@pytest.mark.parametrize("name", REGISTERED)
def test_no_rule_can_be_switched_off_unnoticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: a rule that is registered but does nothing, or whose test cannot fail."""
    registry, rule = REGISTERED[name]
    monkeypatch.setattr(rules, registry, tuple(r for r in REGISTRIES[registry] if r is not rule))
    with pytest.raises(AssertionError):
        SCENARIOS[name]()


def test_beyond_the_tracking_bound_the_way_back_is_free() -> None:
    """Hazard: an arm that was pushed a little beyond the bound accepts nothing any more, not even the way back."""
    scene = Scene(follow=False)
    scene.step()
    scene.pose = shifted((0, 0.12, 0), turned((0, 0, 0.7)))
    assert scene.step((0, 0.01, 0), (0, 0, 0.04)).verdict is Verdict.ACCEPTED
    assert (
        scene.step((0.03, 0.01, 0), (0.2, 0, 0.04)).verdict is Verdict.ACCEPTED
    )  # not quite back, but no further away
    decision = scene.step((0, -0.01, 0), (0, 0, -0.05))
    assert codes(decision) == {"tracking"}
    np.testing.assert_allclose(decision.filtered.to_array()[:6], 0, atol=1e-6)


VECTORS = st.lists(st.floats(-0.3, 0.3), min_size=3, max_size=3).map(np.array)


@given(VECTORS, VECTORS, st.booleans())
def test_the_shares_of_the_tracking_rule_are_the_largest_allowed(step: Any, offset: Any, flip: bool) -> None:
    limit = max(0.2, float(np.linalg.norm(offset)))
    share = share_within_ball(step, offset, limit)
    assert np.linalg.norm(offset + share * step) <= limit * (1 + 1e-7)
    assert share == 1 or np.linalg.norm(offset + (share + 1e-3) * step) >= limit * (1 - 1e-7)

    turn = geometry.from_rotvec(offset) * (-1 if flip else 1)  # both signs are the same rotation
    share = share_within_angle(step, turn, limit)

    def angle(s: float) -> float:
        return float((Rotation.from_rotvec(s * step) * Rotation.from_quat(turn)).magnitude())

    assert angle(share) <= limit * (1 + 1e-7)
    assert share == 1 or angle(share + 1e-3) >= limit * (1 - 1e-7)


def test_outside_the_box_the_arm_may_only_move_inwards() -> None:
    """Hazard: an arm that starts outside and is thrown into the box, or walks on outwards."""
    scene = Scene(pose=Pose(np.array([0.5, 0.0, 0.2]), turned((0, 0, 2.5)).quaternion))
    decision = scene.step((0.02, 0.01, 0), (0, 0, 0.1))
    np.testing.assert_allclose(decision.command.target.position, (0.5, 0.01, 0.2))
    np.testing.assert_allclose(decision.filtered.rotation, 0, atol=1e-6)
    decision = scene.step((-0.02, 0, 0), (0, 0, -0.1))
    assert decision.verdict is Verdict.ACCEPTED
    np.testing.assert_allclose(decision.command.target.position, (0.48, 0.01, 0.2))


def test_orientation_does_not_jump_to_the_other_bound_at_pi() -> None:
    """Hazard: beyond pi a rotation vector changes its sign; clipped naively the wrist spins right round."""
    scene = Scene(pose=turned((0, 0, 3.1)))
    decision = scene.step((0, 0, 0), (0, 0, 0.2))
    _, angle = geometry.errors(scene.pose, turned((0, 0, 3.1)))
    assert angle < 1e-5
    assert decision.reports[0].asked == pytest.approx(3.3)


def test_rotation_limits_hold_at_the_gripper_down_pose() -> None:
    """Hazard: plain roll, pitch, yaw are singular with the gripper down: a yaw step reads as a roll of 180 degrees."""
    scene = Scene(pose=turned((0.0, 0.0, 0.0)))
    for rpy in ((0.1, 0, 0), (0, 0.1, 0), (0, 0, 0.1), (-0.1, -0.1, -0.1)):
        assert scene.step((0, 0, 0), rpy).verdict is Verdict.ACCEPTED


def test_an_arm_a_hair_beyond_the_wall_is_not_stuck() -> None:
    """Hazard: rounding; a wall that is neither inside nor outside, where no step would satisfy all limits."""
    for beyond in (1e-12, 1e-9, 3e-7, 1e-6, 2e-6):
        scene = Scene(pose=Pose(np.array([0.3, 0.0, 0.3 + beyond]), turned((0, 0, 1.57 + beyond)).quaternion))
        decision = scene.step((0.02, 0, 0.02), (0, 0, 0.1))
        np.testing.assert_allclose(decision.filtered.translation, (0.02, 0, 0), atol=1e-5)
        assert scene.step((0, 0, -0.02), (0, 0, -0.1)).verdict is Verdict.ACCEPTED


def test_a_wall_is_slid_along_without_a_jerk() -> None:
    """Position is clipped by component: the rest of the step goes on, and the wall is no reason to brake it."""
    scene = Scene(pose=at(0.44), motion={"max_acceleration_m_s2": 1.0})
    for _ in range(5):
        decision = scene.step((0.02, 0.02, 0), dt=0.19)
        assert decision.filtered.translation[1] == pytest.approx(0.02)
    assert scene.pose.position[0] == pytest.approx(0.45)


def test_an_arm_inside_a_keep_out_box_may_only_come_out() -> None:
    box = {"name": "fixture", "lower_m": (0.28, -0.02, 0.1), "upper_m": (0.36, 0.02, 0.25)}
    scene = Scene(pose=at(0.3), keep_out=[box])
    assert np.allclose(scene.step((0.02, 0, 0)).filtered.translation, 0)
    assert scene.step((-0.025, 0, 0)).verdict is Verdict.ACCEPTED


def test_one_and_the_same_instant_again_is_refused() -> None:
    """Hazard: equal clock readings make every speed infinite."""
    scene = Scene()
    assert scene.step((0.01, 0, 0)).verdict is Verdict.ACCEPTED
    decision = scene.step((0.01, 0, 0), dt=0.0, stamp=scene.now, observation_stamp=scene.now)
    assert codes(decision) == {"rate"}


@given(st.floats(-2, 0), st.floats(1e-6, 2), st.floats(-1, 1))
def test_the_search_for_a_bound_ends_just_inside_it(start: float, end: float, bend: float) -> None:
    def excess(share: float) -> float:
        return start + (end - start) * share + bend * min(-start, end) * share * (1 - share)

    share = share_until(excess)
    assert excess(share) <= 0
    assert share == 0 or excess(share + 1e-4) > excess(share) > -1e-5
