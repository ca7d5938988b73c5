"""Joint positions over time: what the filter judges, the driver checks and a controller follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_ros.trajectory import Trajectory

ONE = np.array([[0.0]])


@st.composite
def trajectories(draw: Any, joints: int = 2) -> Trajectory:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 6))
    times = draw(st.floats(-5, 5)) + np.cumsum(rng.uniform(0.01, 0.3, count))
    return Trajectory(times, rng.normal(size=(count, joints)), rng.normal(size=(count, joints)))


@pytest.mark.parametrize(
    ("times", "positions", "velocities", "said"),
    [
        ([0.0], [[0.0, 1.0]], [[0.0]], "shapes"),
        ([0.0, 1.0], [[0.0]], [[0.0]], "shapes"),
        ([], np.zeros((0, 2)), np.zeros((0, 2)), "shapes"),
        ([0.0], np.zeros((1, 0)), np.zeros((1, 0)), "shapes"),
        ([0.0, 0.0], np.zeros((2, 1)), np.zeros((2, 1)), "must increase"),
        ([1.0, 0.0], np.zeros((2, 1)), np.zeros((2, 1)), "must increase"),
        ([float("nan")], ONE, ONE, "not finite"),
        ([0.0], ONE * float("nan"), ONE, "not finite"),
        ([0.0], ONE, ONE + float("inf"), "not finite"),
    ],
)
def test_what_no_controller_could_follow_is_no_trajectory(
    times: Any, positions: Any, velocities: Any, said: str
) -> None:
    """Hazard: a NaN, times that go back, or a joint too few, in a message from elsewhere reaches the arm."""
    with pytest.raises(ValueError, match=said):
        Trajectory(np.array(times), np.array(positions), np.array(velocities))


@given(trajectories())
def test_it_passes_through_its_points_and_is_continuous(trajectory: Trajectory) -> None:
    """Hazard: a step at a knot, or at an end."""
    q, qd = trajectory.sampled(trajectory.times)
    np.testing.assert_allclose(q, trajectory.positions, atol=1e-12)
    np.testing.assert_allclose(qd[:-1], trajectory.velocities[:-1], atol=1e-9)
    times = np.arange(trajectory.start - 0.05, trajectory.end + 0.05, 1e-3)
    positions, velocities = trajectory.sampled(times)
    # A cubic between knots this far apart: neither positions nor slopes differ from each other by more than that.
    assert abs(np.diff(positions, axis=0)).max(initial=0.0) < 1.5
    inside = (times[1:-1] > trajectory.start + 2e-3) & (times[1:-1] < trajectory.end - 2e-3)
    knots = abs(times[1:-1, None] - trajectory.times).min(axis=1) < 2e-3
    slopes = (positions[2:] - positions[:-2]) / 2e-3
    smooth = inside & ~knots
    bound = 0.05 * (1 + abs(slopes).max(initial=0.0))
    np.testing.assert_allclose(velocities[1:-1][smooth], slopes[smooth], atol=bound)


@given(trajectories())
def test_it_rests_before_and_after(trajectory: Trajectory) -> None:
    for time, place in ((trajectory.start - 1, trajectory.positions[0]), (trajectory.end + 1, trajectory.last)):
        q, qd = trajectory.at(time)
        np.testing.assert_allclose(q, place, atol=1e-12)
        assert not qd.any()
    assert trajectory.rests(trajectory.end)


def test_rest_is_what_comes_not_what_is_now() -> None:
    """Hazard: a path that begins in a while is taken for one that is over."""
    waits = Trajectory(np.array([0.0, 1.0, 2.0, 3.0]), np.array([[0.0], [0.0], [1.0], [1.0]]), np.zeros((4, 1)))
    assert [waits.rests(time) for time in (-1.0, 0.5, 1.5, 2.0, 2.5, 4.0)] == [False, False, False, True, True, True]
    assert Trajectory.at_rest(np.zeros(6), 3.0).rests(-10.0)


@given(trajectories(), st.floats(0, 1), st.floats(-3, 3))
def test_what_is_left_of_it_is_the_same(trajectory: Trajectory, share: float, by: float) -> None:
    """Hazard: a motion that changes because it was looked at, or put on another clock."""
    now = trajectory.start + share * trajectory.duration
    times = now + np.linspace(0, 1, 50)
    np.testing.assert_allclose(trajectory.since(now).sampled(times)[0], trajectory.sampled(times)[0], atol=1e-9)
    np.testing.assert_allclose(trajectory.shifted(by).sampled(times + by)[0], trajectory.sampled(times)[0], atol=1e-9)


@given(trajectories(), trajectories(), st.floats(0, 0.99))
def test_one_after_another_is_continuous(first: Trajectory, second: Trajectory, share: float) -> None:
    """Hazard: a path that begins a little elsewhere, and the arm is told to step there."""
    at = first.start + share * first.duration
    second = second.shifted(at - second.start - 0.005)
    if second.end <= at + 1e-3:
        return
    at = at if at > first.start + 1e-3 else first.start
    joined = first.followed_by(second, at)
    np.testing.assert_allclose(joined.at(at)[0], first.at(at)[0], atol=1e-9)
    np.testing.assert_allclose(joined.at(at)[1], first.at(at)[1], atol=1e-9)
    before = np.linspace(joined.start, at, 20)
    np.testing.assert_allclose(joined.sampled(before)[0], first.sampled(before)[0], atol=1e-9)
    np.testing.assert_array_equal(joined.last, second.last)
    later = second.times[second.times > at + 1e-3]
    after = np.linspace(later[0], second.end, 20)
    np.testing.assert_allclose(joined.sampled(after)[0], second.sampled(after)[0], atol=1e-9)
