"""A run as records: what each message adds to the action that it is about."""

from __future__ import annotations

from types import SimpleNamespace as Message
from typing import Any

import numpy as np
import pytest

from openvla_ros.recording.trace import HOPS, OUTCOMES, STATES, VERDICTS, Trace, percentiles

NAN = float("nan")


def stamp(seconds: float) -> Message:
    return Message(sec=int(seconds), nanosec=round(seconds % 1 * 1e9))


def vector(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Message:
    return Message(x=x, y=y, z=z)


def pose(x: float) -> Message:
    return Message(position=vector(x), orientation=Message(x=0.0, y=0.0, z=0.0, w=1.0))


def action(sequence: int, at: float) -> Message:
    """Image at ``at`` [s], received 10 ms, inferred on 30 ms to 130 ms later."""
    return Message(
        header=Message(stamp=stamp(at)),
        sequence=sequence,
        instruction="lift",
        episode_id="e",
        unnorm_key="bridge_orig",
        duration=Message(sec=0, nanosec=200_000_000),
        translation=vector(0.01),
        rotation=vector(z=0.1),
        gripper=1.0,
        normalized=[0.0] * 7,
        token_ids=[1] * 7,
        image_received=stamp(at + 0.01),
        inference_started=stamp(at + 0.03),
        inference_ended=stamp(at + 0.13),
    )


class Command(Message):
    MOVE, HOLD = 0, 1


def command(action_sequence: int, at: float, kind: int = 0) -> Command:
    """Received by the filter 140 ms, decided 145 ms after the image."""
    return Command(
        kind=kind,
        target=pose(0.31),
        gripper=1.0,
        duration=Message(sec=0, nanosec=200_000_000),
        sequence=action_sequence + 100,
        action_sequence=action_sequence,
        episode_id="e",
        action_received=stamp(at + 0.14),
        decided=stamp(at + 0.145),
    )


def status(action_sequence: int, verdict: int, *rules: str, filtered: float = 0.01) -> Message:
    reports = [Message(rule=r, detail="", asked=NAN, allowed=NAN, limit=NAN) for r in rules]
    return Message(action_sequence=action_sequence, verdict=verdict, reports=reports, filtered_action=[filtered] * 7)


def arm_state(action_sequence: int, at: float, outcome: int, measured: float = 0.3, reached: float = 0.0) -> Message:
    """Received by the driver 150 ms, sent on 155 ms after the image; the outcome ``reached`` [s] after it."""
    return Message(
        header=Message(stamp=stamp(at + reached)),
        end_effector=pose(measured),
        twist=Message(linear=vector(), angular=vector()),
        joints=Message(position=[0.0] * 6, velocity=[0.0] * 6, effort=[]),
        gripper=1.0,
        target=pose(0.31),
        command_sequence=action_sequence + 100,
        action_sequence=action_sequence,
        command_received=stamp(at + 0.15),
        command_sent=stamp(at + 0.155),
        outcome=outcome,
        outcome_stamp=stamp(at + reached),
    )


@pytest.fixture
def trace() -> Trace:
    """One action that went all the way, one that the filter refused; in this order of messages."""
    trace = Trace()
    trace.on_action(action(1, 10.0), "blocking")
    trace.on_command(command(1, 10.0), "blocking")
    trace.on_status(status(1, 2, "step", "speed"), "blocking")
    trace.on_arm_state(arm_state(1, 10.0, 1, reached=0.2))
    trace.on_arm_state(arm_state(1, 10.0, 2, measured=0.308, reached=0.6))
    trace.on_action(action(2, 11.0), "blocking")
    trace.on_status(status(2, 3, "finite", filtered=NAN), "blocking")
    return trace


def test_each_hop_takes_what_its_stamps_say(trace: Trace) -> None:
    """Hazard: a latency table whose rows are measured from the wrong stamp."""
    expected = {
        "camera -> policy": [0.01, 0.01],
        "image waits for its turn": [0.02, 0.02],
        "inference": [0.1, 0.1],
        "policy -> filter": [0.01],
        "safety filter": [0.005],
        "filter -> driver": [0.005],
        "driver: check, to controller": [0.005],
        "arm moves": [0.445],
    }
    assert {name for name, _, _ in HOPS} == set(expected)
    for name, start, end in HOPS:
        np.testing.assert_allclose(trace.hop("blocking", start, end), expected[name], atol=1e-6)
    assert not len(trace.hop("non_blocking", "image", "decided"))


def test_hops_join_up() -> None:
    """Their sum is the way of an image to the arm's arrival: nothing is left out, nothing counted twice."""
    assert [end for _, _, end in HOPS[:-1]] == [start for _, start, _ in HOPS[1:]]


def test_what_became_of_an_action(trace: Trace) -> None:
    limited, refused = trace.steps[1], trace.steps[2]
    assert (limited.verdict, limited.outcome, limited.instruction) == ("limited", "arrived", "lift")
    assert (refused.verdict, refused.outcome, refused.filtered, refused.command) == ("refused", "", None, None)
    assert limited.raw is not None
    assert limited.filtered is not None
    assert trace.reasons == {("blocking", "step"): 1, ("blocking", "speed"): 1, ("blocking", "finite"): 1}


def test_a_hold_is_no_answer_to_an_action(trace: Trace) -> None:
    """Hazard: a hold (action 0) that is counted as a step, or ends the step before it."""
    trace.on_command(command(0, 12.0, kind=1), "blocking")
    trace.on_status(status(0, 0), "blocking")
    trace.on_arm_state(arm_state(0, 12.0, 5))
    assert set(trace.steps) == {1, 2}
    assert trace.steps[1].outcome == "arrived"


def test_the_first_outcome_of_a_step_counts(trace: Trace) -> None:
    """Afterwards the driver repeats it, or holds where the arm has arrived."""
    trace.on_arm_state(arm_state(1, 10.0, 5, reached=0.9))
    assert trace.steps[1].outcome == "arrived"
    assert trace.steps[1].span("command_sent", "outcome") == pytest.approx(0.445)


@pytest.mark.parametrize(("outcome", "said"), [(3, "timed out"), (4, "refused by the driver"), (5, "held")])
def test_only_an_arrival_has_a_time(outcome: int, said: str) -> None:
    """Hazard: a motion that timed out counts as one that took the time-out."""
    trace = Trace()
    trace.on_action(action(1, 10.0))
    trace.on_arm_state(arm_state(1, 10.0, outcome, reached=2.5))
    assert trace.steps[1].outcome == said
    assert not len(trace.hop("", "command_sent", "outcome"))


def test_messages_in_another_order_give_the_same_step() -> None:
    """Topics have no order among each other: the verdict may overtake the action."""
    trace = Trace()
    trace.on_status(status(1, 1), "blocking")
    trace.on_command(command(1, 10.0), "blocking")
    trace.on_action(action(1, 10.0), "blocking")
    (step,) = trace.of_mode("blocking")
    assert step.verdict == "accepted"
    assert step.span("image", "decided") == pytest.approx(0.145)


def test_rate_counts_the_mode_that_was_in_control(trace: Trace) -> None:
    trace.seconds["blocking"] = 4.0
    assert trace.achieved_hz("blocking") == 0.5
    assert trace.achieved_hz("non_blocking") == 0.0


def test_tracking_error_is_the_distance_to_the_target(trace: Trace) -> None:
    np.testing.assert_allclose(trace.tracking_error(), [0.01, 0.002], atol=1e-9)


def test_the_state_at_a_time_is_never_a_later_one(trace: Trace) -> None:
    """Hazard: a dataset whose states lie after the image: the answer stands in the question."""
    assert trace.state_at(10.1) is None
    first, second = (s.state for s in trace.samples)
    assert trace.state_at(10.3) is first
    assert trace.state_at(10.6) is second


def test_without_samples_nothing_is_kept() -> None:
    trace = Trace(keep_samples=False)
    trace.on_arm_state(arm_state(1, 10.0, 2))
    assert not trace.samples
    assert not len(trace.tracking_error())


def test_percentiles_are_milliseconds() -> None:
    values: Any = np.arange(101) / 1000
    assert percentiles(values) == pytest.approx((50.0, 99.0))
    assert percentiles(np.array([])) is None


def test_numbers_are_those_of_the_messages() -> None:
    """Hazard: msg/*.msg gets another constant, and the report files outcomes under the wrong name."""
    pytest.importorskip("rclpy", reason="generated messages need ROS")
    import openvla_ros.msg as ours

    known = ours.SafetyStatus
    assert VERDICTS == {known.ACCEPTED: "accepted", known.LIMITED: "limited", known.REFUSED: "refused"}
    assert {n: s.upper() for n, s in STATES.items()} == {
        getattr(known, name): name for name in ("WAITING", "ACTIVE", "HOLDING", "STOPPED", "PAUSED")
    }
    arm = ours.ArmState
    assert set(OUTCOMES) == {arm.ARRIVED, arm.TIMED_OUT, arm.REFUSED, arm.HELD}
    assert OUTCOMES[arm.ARRIVED] == "arrived"
