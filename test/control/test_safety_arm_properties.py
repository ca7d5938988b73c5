"""What holds on any walk of the arm: what the filter passes, the driver's own kinematics carries out.

``make nightly`` walks further.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("mink")

from safety_arm import ArmScene, share

from openvla_ros.control.safety import Verdict

STEPS = 60  # of one walk
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
WALKS = settings(max_examples=200 if NIGHTLY else 6, deadline=None)
NAMES = ("wx250s", "panda")
SLACK = 2e-3  # [rad], [m]: filter and driver each find the joints by themselves


def asked(rng: np.random.Generator, style: str, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A translation [m] and a rotation [rad]: anywhere, or on and on in one direction, which presses against limits."""
    vector = rng.normal(size=6) if style == "anywhere" else direction + 0.2 * rng.normal(size=6)
    vector = vector / abs(vector).max() * rng.uniform(0.1, 1.2)
    return 0.05 * vector[:3], 0.25 * vector[3:]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("style", ["anywhere", "onwards"])
@WALKS
@example(seed=291, near_table=False)  # the wrist turns through its singularity within one step
@example(seed=10114, near_table=False)  # told to stay, the same elbow went on, beyond a joint's margin
@example(seed=2419, near_table=True)  # far from its start pose, the elbow of a redundant arm wandered off
@given(seed=st.integers(0, 2**32 - 1), near_table=st.booleans())
def test_the_driver_refuses_nothing_that_the_filter_passes(name: str, style: str, seed: int, near_table: bool) -> None:
    """Hazard: filter and driver disagree on what the arm can do: the driver refuses, the target stays where no joint
    position leads, and the arm is stuck for minutes.

    Also: no joint beyond its margin, no link nearer than allowed, and no posture from which there is no way out.
    """
    rng = np.random.default_rng(seed)
    arm = ArmScene(name, collision={} if near_table and name == "wx250s" else {"table_height_m": -0.05})
    limits = arm.config
    lower, upper = arm.robot.lower + limits.joints.margin_rad, arm.robot.upper - limits.joints.margin_rad
    lowest = limits.collision.table_height_m + limits.collision.table_stop_m
    direction, still = rng.normal(size=6), 0
    for i in range(STEPS):
        if i % 20 == 0:
            direction = rng.normal(size=6)
        decision = arm.step(*asked(rng, style, direction), dt=float(rng.choice([0.2, 0.2, 0.2, 0.1, 0.3])))
        assert not arm.refusals
        assert decision.verdict is not Verdict.REFUSED, decision.reports
        assert (arm.q >= lower - SLACK).all()
        assert (arm.q <= upper + SLACK).all()
        assert arm.model.distances(arm.q, 0.05).min() >= limits.collision.self_stop_m - SLACK
        assert arm.model.heights(arm.q).min() >= lowest - SLACK
        still = still + 1 if share(decision) < 0.02 else 0
        if still == 3:  # pressed against something, or several
            assert way_out(arm, rng) > 0.02
            still = 0


def way_out(arm: ArmScene, rng: np.random.Generator) -> float:
    """The most that is passed on of a few tries in other directions."""
    best = 0.0
    for _ in range(20):
        vector = rng.normal(size=6)
        vector /= abs(vector).max()
        best = max(best, share(arm.step(0.02 * vector[:3], 0.1 * vector[3:])))
        if best > 0.02:
            break
    return best


@WALKS
@given(seed=st.integers(0, 2**32 - 1))
def test_the_same_walk_gives_the_same_commands(seed: int) -> None:
    """Hazard: an answer that depends on what was asked of the model before."""

    def walk() -> list[Any]:
        rng, arm = np.random.default_rng(seed), ArmScene()
        return [repr(arm.step(*asked(rng, "anywhere", np.ones(6)))) for _ in range(15)]

    assert walk() == walk()
