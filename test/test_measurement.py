"""Joint positions that an arm cannot have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_ros.measurement import Plausibility

N = 6
STEP = 0.02  # [s]
SPEED = 2.0  # [rad/s]
HERE = np.full(N, 0.7)


@pytest.fixture
def plausibility() -> Plausibility:
    made = Plausibility(tuple(f"joint {i}" for i in range(N)), np.full(N, -2.0), np.full(N, 2.0), np.full(N, SPEED))
    for i in range(10):
        assert made.judge(HERE, i * STEP).problem == ""
    return made


NOW = 10 * STEP


@pytest.mark.parametrize(
    ("q", "said"),
    [
        (np.full(N, -math.pi), "outside its range -2.00 .. 2.00"),
        (np.zeros(N), "joint 0 leapt by 0.70 rad within 0.020 s"),
        (HERE + np.eye(N)[3] * 0.2, "joint 3 leapt by 0.20 rad"),
        (np.full(N, 1e6), "outside its range"),
        (np.full(N, math.nan), "not finite"),
        (np.append(HERE[1:], math.inf), "not finite"),
    ],
)
def test_false_positions_count_as_missing(plausibility: Plausibility, q: Any, said: str) -> None:
    """Hazard: a failed read of a WidowX's bus (-pi), zeros from a second publisher, a slipped encoder: an e-stop then
    throws the arm there."""
    verdict = plausibility.judge(q, NOW)
    assert said in verdict.problem
    assert not verdict.leapt
    assert plausibility.judge(HERE, NOW + STEP).problem == ""  # and what comes after is believed as before


@pytest.mark.parametrize("q", [np.full(N, -math.pi), np.full(N, math.nan)])
def test_the_first_one_is_not_believed_unseen(q: Any) -> None:
    """Hazard: the driver starts while the bus fails, and the arm is held at -pi."""
    fresh = Plausibility(tuple("abcdef"), np.full(N, -2.0), np.full(N, 2.0), np.full(N, SPEED))
    assert fresh.judge(q, 0.0).problem
    assert fresh.judge(HERE, 0.02).problem == ""


def test_a_stamp_that_is_none_is_not_believed(plausibility: Plausibility) -> None:
    assert "not finite" in plausibility.judge(HERE, math.nan).problem


def test_two_that_contradict_each_other_never_agree(plausibility: Plausibility) -> None:
    """Hazard: the second publisher's zeros are believed because they come again and again between the true ones."""
    for i in range(200):
        stamp = NOW + i * STEP
        false = plausibility.judge(np.zeros(N), stamp)
        assert false.problem
        assert not false.leapt
        assert plausibility.judge(HERE, stamp + STEP / 2).problem == ""


def test_an_arm_that_is_elsewhere_is_believed_after_a_while_and_that_is_told(plausibility: Plausibility) -> None:
    """Hazard: a simulation that was reset, an arm moved while its driver was off: never believed again, or at once."""
    verdicts = [plausibility.judge(np.zeros(N), NOW + i * STEP) for i in range(30)]
    leaps = [i for i, verdict in enumerate(verdicts) if verdict.leapt]
    assert leaps == [15]
    assert all(verdict.problem for verdict in verdicts[:15])
    assert not any(verdict.problem for verdict in verdicts[15:])


def test_what_comes_from_elsewhere_and_does_not_stay_is_not_believed(plausibility: Plausibility) -> None:
    rng = np.random.default_rng(0)
    for i in range(200):
        verdict = plausibility.judge(rng.uniform(-2, 0, N), NOW + i * STEP)
        assert not verdict.leapt


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.floats(0.004, 0.15))
def test_whatever_an_arm_can_do_is_believed(seed: int, share: float, period: float) -> None:
    """Hazard: a fast arm, or joint states at 10 Hz, and the driver holds for nothing."""
    rng = np.random.default_rng(seed)
    made = Plausibility(tuple("abcdef"), np.full(N, -2.0), np.full(N, 2.0), np.full(N, SPEED))
    q = HERE.copy()
    for i in range(60):
        q = np.clip(q + rng.choice([-1, 1], N) * share * SPEED * period, -2.05, 2.05)
        noise = rng.uniform(-0.01, 0.01, N)
        assert made.judge(q + noise, i * period + rng.uniform(-0.1, 0.1) * period).problem == ""
