"""The filter's states: freshness, watchdog, stop, reset, clock. Single rules are in test_safety_rules.py."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from safety_scene import START, Scene, action, arm_state, codes, shifted

from openvla_ros.control.safety import SafetyConfig, SafetyFilter, State, Verdict, rules
from openvla_ros.control.safety.motion import Context, Motion
from openvla_ros.errors import ConfigError
from openvla_ros.types import Pose, RuleReport, rpy_to_rotvec

NAN, INF = math.nan, math.inf


def test_an_action_within_all_limits_passes_unchanged_from_the_measured_pose() -> None:
    scene = Scene()
    decision = scene.step((0.01, -0.02, 0.005), (0.05, 0.0, -0.1), gripper=0.3)
    assert (decision.state, decision.verdict) == (State.ACTIVE, Verdict.ACCEPTED)
    assert decision.filtered is decision.raw
    command = decision.command
    assert command is not None
    assert not command.hold
    np.testing.assert_allclose(command.target.position, shifted((0.01, -0.02, 0.005)).position)
    expected = START.moved(np.zeros(3), rpy_to_rotvec(np.array([0.05, 0, -0.1])))
    np.testing.assert_allclose(np.abs(command.target.quaternion @ expected.quaternion), 1.0)
    assert (command.gripper, command.sequence, command.action_sequence) == (0.3, 1, 1)
    assert command.duration == pytest.approx(0.3)  # the step's 0.2 s, and 0.1 s from and to rest
    assert command.episode_id == "episode"


def test_the_target_starts_from_the_last_command_not_from_the_sagging_arm() -> None:
    """Hazard: anchored at the measured pose, a held arm sinks by its tracking error at every step."""
    scene = Scene(follow=False)
    target = scene.step((0, 0, 0)).command.target.position
    for _ in range(20):
        scene.pose = Pose(target - (0, 0, 0.02), START.quaternion)  # gravity: 2 cm below the target
        target = scene.step((0, 0, 0)).command.target.position
    np.testing.assert_allclose(target, START.position)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("where", [0, 3, 6, "stamp", "observation_stamp", "duration"])
def test_not_finite_is_refused_before_anything_is_clipped(where: int | str, value: float) -> None:
    """Hazard: np.clip and min/max let NaN through; an infinite stamp is never stale."""
    scene = Scene()
    if isinstance(where, str):
        decision = scene.step(**{where: value})
    else:
        values = np.zeros(7)
        values[where] = value
        decision = scene.step(values[:3], values[3:6], values[6])
    assert decision.verdict is Verdict.REFUSED
    assert decision.command is None
    assert codes(decision) == {"not_finite"}


def test_wrong_shapes_are_refused() -> None:
    scene = Scene()
    decision = scene.send(replace(action(), translation=np.zeros(7)))
    assert decision.verdict is Verdict.REFUSED
    assert "(7,)" in decision.reports[-1].detail


@pytest.mark.parametrize(
    "broken",
    [
        {"pose": Pose(np.array([NAN, 0, 0]), START.quaternion)},
        {"pose": Pose(START.position, np.zeros(4))},
        {"gripper": NAN},
        {"linear_velocity": np.array([0, INF, 0])},
        {"joint_positions": np.array([0, NAN])},
        {"wrench": np.full(6, NAN)},
        {"stamp": NAN},
    ],
)
def test_an_arm_state_that_cannot_be_believed_counts_as_missing(broken: dict) -> None:
    """Hazard: NaN joint states become a NaN anchor, and every comparison with NaN is false."""
    scene = Scene()
    scene.step((0.01, 0, 0))
    scene.arm = broken
    decision = scene.tick(0.1)
    assert "arm_state" in codes(decision)
    assert decision.state is State.ACTIVE  # the last good one is still fresh
    decision = scene.tick(0.15)
    assert decision.state is State.WAITING
    assert decision.command is not None
    assert decision.command.hold
    assert np.isfinite(decision.command.target.position).all()


def test_without_any_arm_state_nothing_passes() -> None:
    scene = Scene()
    scene.filter = SafetyFilter(SafetyConfig())
    assert scene.filter.state is State.WAITING
    decision = scene.step((0.01, 0, 0), fresh=False)
    assert decision.verdict is Verdict.REFUSED
    assert decision.command is None
    assert "arm_state" in codes(decision)


def test_losing_the_arm_state_holds_once_and_recovers_at_the_measured_pose() -> None:
    """Hazard: the driver dies mid-motion, comes back elsewhere, and the old target is 10 cm away."""
    scene = Scene()
    scene.step((0.01, 0, 0))
    holds = [scene.tick(0.02, fresh=False).command for _ in range(50)]
    assert [c.hold for c in holds if c] == [True]
    assert scene.filter.state is State.WAITING
    scene.pose = shifted((0, 0.15, 0))
    assert scene.tick(0.02).state is State.HOLDING
    decision = scene.step((0.01, 0, 0))
    np.testing.assert_allclose(decision.command.target.position, shifted((0.01, 0.15, 0)).position)


def test_silence_means_holding_within_the_time_and_lets_the_last_target_finish() -> None:
    """Hazard: a dead policy. And: blocking control is silent while a long motion runs, which must not be aborted."""
    scene = Scene(watchdog={"silence_s": 0.5})
    scene.step((0.01, 0, 0))
    assert scene.tick(0.5).state is State.ACTIVE
    decision = scene.tick(0.02)
    assert decision.state is State.HOLDING
    assert codes(decision) == {"watchdog", "no_arm_model"}
    assert decision.command is None
    decision = scene.step((0.01, 0, 0))
    assert (decision.state, decision.verdict) == (State.ACTIVE, Verdict.ACCEPTED)
    np.testing.assert_allclose(decision.command.target.position, shifted((0.02, 0, 0)).position)


def test_refused_actions_do_not_feed_the_watchdog() -> None:
    """Hazard: a policy that sends only NaN looks alive."""
    scene = Scene()
    scene.step((0.01, 0, 0))
    for _ in range(6):
        scene.step((NAN, 0, 0))
    assert scene.filter.state is State.HOLDING


def test_a_stop_holds_at_once_and_latches_until_reset() -> None:
    """Hazard: a stop that the next action undoes."""
    scene = Scene()
    scene.step((0.01, 0, 0))
    decision = scene.filter.stop("keyboard", scene.now)
    assert decision.command.hold
    assert decision.state is State.STOPPED
    for _ in range(5):
        decision = scene.step((0.01, 0, 0))
        assert (decision.verdict, decision.command) == (Verdict.REFUSED, None)
        assert "stopped" in codes(decision)
        assert scene.tick(0.1).command is None
    assert scene.filter.stop_reason == "keyboard"
    assert scene.filter.stop("again", scene.now).command.hold  # a second push may be the one that gets through
    assert scene.filter.stop_reason == "keyboard"


def test_a_stop_before_any_arm_state_is_a_hold_too() -> None:
    """Hazard: the filter restarts while the driver still moves; the stop must reach it although nothing is known."""
    decision = SafetyFilter(SafetyConfig()).stop("keyboard", 5.0)
    assert decision.command.hold
    assert np.isfinite(decision.command.target.position).all()


def test_reset_is_refused_while_the_stop_is_pressed() -> None:
    """Hazard: re-arming under a pressed button, whose release would then be the start signal."""
    scene = Scene()
    decision = scene.filter.press(True, scene.now)
    assert decision.command.hold
    assert scene.filter.press(True, scene.now).command is None  # the level repeats
    done, message = scene.filter.reset(scene.now)
    assert not done
    assert "pressed" in message
    scene.filter.press(False, scene.now)
    assert scene.filter.state is State.STOPPED
    assert scene.step((0.01, 0, 0)).verdict is Verdict.REFUSED
    done, _ = scene.rearm()
    assert done
    assert scene.step((0.01, 0, 0)).verdict is Verdict.ACCEPTED


def test_a_stop_without_a_name_is_a_stop() -> None:
    """Hazard: an empty reason taken for no reason."""
    scene = Scene()
    scene.filter.stop("", scene.now)
    scene.tick(0.1)
    assert scene.step((0.01, 0, 0)).verdict is Verdict.REFUSED
    assert scene.filter.state is State.STOPPED


def test_reset_is_refused_without_a_fresh_arm_state() -> None:
    scene = Scene()
    scene.filter.stop("keyboard", scene.now)
    scene.tick(1.0, fresh=False)
    done, message = scene.filter.reset(scene.now)
    assert not done
    assert "arm state" in message
    assert scene.filter.state is State.STOPPED


def test_reset_without_a_stop_changes_nothing() -> None:
    scene = Scene()
    scene.step((0.01, 0, 0))
    assert scene.rearm()[0]
    assert scene.filter.state is State.ACTIVE


def test_after_a_reset_the_target_is_anchored_at_the_measured_pose() -> None:
    """Hazard: the arm was moved by hand while stopped and jumps back to its old target after the reset."""
    scene = Scene()
    scene.step((0.01, 0, 0))
    scene.filter.stop("keyboard", scene.now)
    scene.pose = shifted((0, 0.1, 0))
    scene.tick(1.0)
    assert scene.rearm()[0]
    decision = scene.step((0.01, 0, 0))
    np.testing.assert_allclose(decision.command.target.position, shifted((0.01, 0.1, 0)).position)


def test_after_a_reset_nothing_moves_on_an_image_from_before_it() -> None:
    """Hazard: the action that was in flight when the operator stopped runs right after the reset."""
    scene = Scene()
    scene.step((0.01, 0, 0))
    scene.filter.stop("keyboard", scene.now)
    scene.tick(0.1)
    old = scene.stamped(action((0.05, 0, 0)))
    scene.tick(0.1)
    assert scene.rearm()[0]
    decision = scene.give(old)
    assert decision.verdict is Verdict.REFUSED
    assert codes(decision) == {"stale_observation"}


def test_after_start_stop_and_long_silence_the_first_steps_are_small() -> None:
    """Hazard: people reach for an arm that has been still."""
    scene = Scene(ramp=True)

    def length() -> float:
        decision = scene.step((0.05, 0, 0))
        assert decision.filtered is not None
        scene.pose = START
        return float(np.linalg.norm(decision.filtered.translation))

    assert length() == pytest.approx(0.0125)
    assert length() == pytest.approx(0.02)
    for _ in range(4):
        scene.step((-0.002, 0, 0))
    scene.filter.stop("keyboard", scene.now)
    scene.rearm()
    assert length() == pytest.approx(0.0125)
    for _ in range(2):
        scene.tick(1.0)
    assert scene.filter.state is State.HOLDING
    assert length() > 0.04  # a short silence: slow blocking control never leaves the ramp otherwise
    for _ in range(4):
        scene.tick(1.0)
    assert length() == pytest.approx(0.0125)


def test_a_clock_that_goes_backwards_stops_and_forgets() -> None:
    """Hazard: after a backward step an old action looks fresh, and so does an arm state."""
    scene = Scene()
    late = scene.stamped(action((0.05, 0, 0)))
    scene.step((0.01, 0, 0))
    scene.now += 100
    scene.step((0.01, 0, 0))
    scene.now = late.stamp + 0.01
    decision = scene.give(late)
    assert decision.command.hold
    assert decision.state is State.STOPPED
    assert "clock" in codes(decision)
    assert not scene.filter.reset(scene.now)[0]  # no arm state of this clock yet
    scene.tick(0.02)
    assert scene.rearm()[0]
    assert scene.step((0.01, 0, 0)).verdict is Verdict.ACCEPTED


def test_what_was_measured_before_the_clock_stepped_back_does_not_count() -> None:
    """Hazard: an arm state that was about to go stale looks fresh again."""
    scene = Scene()
    scene.step((0.01, 0, 0))
    scene.tick(0.15, fresh=False)
    scene.tick(-0.1, fresh=False)
    assert scene.filter.state is State.STOPPED
    assert "no arm state" in scene.filter.reset(scene.now)[1]


def test_an_arm_state_from_the_future_is_not_fresh() -> None:
    """Hazard: with the driver's clock ahead, its last state stays "fresh" long after the driver died."""
    scene = Scene()
    scene.arm = {"stamp": scene.now + 10}
    decision = scene.tick(0.1)
    assert decision.state is State.WAITING
    assert "synchronise" in decision.reports[-1].detail


def test_a_hold_keeps_what_the_gripper_was_told() -> None:
    """Hazard: the stop drops what the gripper holds (measured 0.5 around a block that it was told to close on)."""
    scene = Scene()
    scene.step(gripper=0.0)
    scene.arm = {"gripper": 0.5}
    scene.tick(0.1)
    assert scene.filter.stop("keyboard", scene.now).command.gripper == 0.0


def test_a_limit_cannot_undo_what_another_one_ensured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: a later rule that turns a motion, out of the box or beyond the step limit."""

    class Turns:
        def __init__(self, config: SafetyConfig) -> None:
            pass

        def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
            if motion.translation[2] > 0:
                return motion, []
            return motion.with_translation(np.array([0, 0, 0.2])), [RuleReport("turns", "")]

    monkeypatch.setattr(rules, "LIMITS", (*rules.LIMITS, Turns))
    decision = Scene(pose=shifted((0, 0, 0.07))).step((0.01, 0, 0))
    np.testing.assert_allclose(decision.command.target.position, (0.3, -0.05, 0.3))

    class Insists(Turns):
        def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
            return motion.with_translation(np.array([0, 0, 0.2])), [RuleReport("insists", "")]

    monkeypatch.setattr(rules, "LIMITS", (*rules.LIMITS, Insists))
    decision = Scene().step((0.01, 0, 0))
    assert decision.verdict is Verdict.REFUSED
    assert "unsettled" in codes(decision)


def test_a_clock_going_backwards_does_not_unlatch() -> None:
    scene = Scene()
    scene.filter.stop("keyboard", scene.now)
    scene.tick(-500)
    assert scene.filter.state is State.STOPPED
    assert scene.filter.stop_reason == "keyboard"
    assert scene.step((0.01, 0, 0)).verdict is Verdict.REFUSED


@pytest.mark.parametrize("now", [NAN, INF, -INF])
def test_a_time_that_is_not_finite_stops(now: float) -> None:
    """Hazard: every age computed from NaN passes `age > limit`."""
    scene = Scene()
    scene.step((0.01, 0, 0))
    decision = scene.filter.on_action(scene.stamped(action((0.05, 0, 0))), now)
    assert decision.state is State.STOPPED
    assert decision.command.hold


def test_a_clock_that_jumps_forward_lets_no_old_action_pass() -> None:
    scene = Scene()
    scene.step((0.01, 0, 0))
    waiting = scene.stamped(action((0.05, 0, 0)))
    scene.tick(3600)
    decision = scene.give(waiting)
    assert decision.verdict is Verdict.REFUSED
    assert {"stale_action", "stale_observation"} <= codes(decision)


def test_threads_that_race_by_milliseconds_are_no_clock_fault() -> None:
    scene = Scene()
    scene.filter.tick(scene.now - 0.01)
    assert scene.filter.state is not State.STOPPED


def test_a_restarted_policy_counts_from_one_again_after_the_watchdog_only() -> None:
    """Hazard: either replays pass, or a restarted policy is locked out until its counter catches up."""
    scene = Scene()
    for _ in range(5):
        scene.step((0.001, 0, 0))
    scene.sequence = 0
    assert codes(scene.step((0.001, 0, 0))) == {"sequence"}
    scene.tick(1.5)
    scene.sequence = 0
    assert scene.step((0.001, 0, 0)).verdict is Verdict.ACCEPTED


def test_an_action_is_taken_once_even_after_a_silence() -> None:
    scene = Scene(watchdog={"silence_s": 0.1})
    scene.tick(0.1)
    first = scene.stamped(action((0.01, 0, 0)))
    assert scene.give(first).command is not None
    scene.tick(0.15)
    assert scene.filter.state is State.HOLDING
    assert codes(scene.give(first)) == {"sequence"}


def test_all_rules_that_fired_are_listed() -> None:
    scene = Scene()
    scene.filter.stop("keyboard", scene.now)
    scene.tick(5.0)
    decision = scene.step((7.0, 0, 0), stamp=scene.now - 4)
    assert {"implausible", "stale_action", "stopped"} <= codes(decision)
    scene = Scene(pose=Pose(np.array([0.44, 0.0, 0.2]), START.quaternion))
    decision = scene.step((0.09, 0, 0), (0, 0, 0.5), gripper=1.4, duration=0.1)
    assert codes(decision) == {"step", "speed", "workspace", "gripper"}


def test_live_changes_are_taken_and_dangerous_ones_refused_while_the_arm_moves() -> None:
    """Hazard: a mistyped workspace becomes true under a moving arm."""
    scene = Scene()
    scene.step((0.01, 0, 0))
    scene.filter.update(SafetyConfig(motion={"max_step_m": 0.01}, ramp_in={"duration_s": 0.0}))
    with pytest.raises(ConfigError, match=r"workspace\.upper_m"):
        scene.filter.update(SafetyConfig(workspace={"upper_m": (4.5, 0.25, 0.3)}))
    assert scene.step((0.02, 0, 0)).filtered.translation[0] == pytest.approx(0.01)
    scene.filter.stop("keyboard", scene.now)
    scene.filter.update(SafetyConfig(workspace={"upper_m": (0.31, 0.25, 0.3)}))
    assert scene.filter.config.workspace.upper_m[0] == 0.31


def test_the_commanded_pose_cannot_be_changed_by_who_receives_it() -> None:
    """Hazard: a shared array; a node that edits the message's pose moves the filter's own anchor."""
    command = Scene().step((0.01, 0, 0)).command
    with pytest.raises(ValueError, match="read-only"):
        command.target.position[0] = 9.0


def test_the_same_input_gives_the_same_output() -> None:
    def run() -> list[str]:
        scene, random = Scene(ramp=True), np.random.default_rng(1)
        return [repr(scene.step(random.normal(0, 0.05, 3), random.normal(0, 0.2, 3))) for _ in range(50)]

    assert run() == run()


def test_the_heartbeat_stops_the_arm_when_the_operator_lets_go() -> None:
    """Hazard: the operator faints, or walks away."""
    scene = Scene()
    scene.filter = SafetyFilter(SafetyConfig(deadman={"timeout_s": 0.5}))
    assert scene.tick().state is State.STOPPED  # nobody is there yet
    assert "heartbeat" in scene.filter.reset(scene.now)[1]
    scene.filter.on_heartbeat(scene.now)
    assert scene.rearm()[0]
    assert scene.step((0.01, 0, 0)).command is not None
    scene.filter.on_arm_state(arm_state(scene.now + 0.5, scene.pose))
    decision = scene.tick(0.5)
    assert decision.state is State.STOPPED
    assert decision.command.hold
