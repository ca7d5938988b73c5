"""To rest along a path: what a hold does to a motion."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_arm import JudgedArm

from openvla_ros.drive.braking import braked
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Array

LINEAR, ANGULAR = 2.5, 12.5
FAST = 0.25


def twist(q: Array, qd: Array) -> tuple[Array, Array]:
    """Of an arm whose first three joints are x, y, z, the others angles."""
    return qd[:3], qd[3:]


def wave(seed: int, amplitude: float = 1.0) -> Trajectory:
    """A path whose speed and acceleration stay within the limits: some sines, from rest to rest."""
    rng = np.random.default_rng(seed)
    times = np.linspace(0, 2, 81)
    rate = rng.uniform(0.5, 2.0, 6) * 2 * np.pi
    size = amplitude * np.repeat([0.6 * LINEAR, 0.6 * ANGULAR], 3) / 3**0.5 / rate**2
    phase = rng.uniform(0, 2 * np.pi, 6)
    angle = times[:, None] * rate + phase
    return Trajectory(times, size * np.sin(angle), size * rate * np.cos(angle))


def twists(path: Trajectory, times: Array) -> tuple[Array, Array]:
    _, qd = path.sampled(times)
    return qd[:, :3], qd[:, 3:]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1.2))
def test_it_stays_on_the_path_and_comes_to_rest_within_the_acceleration_limit(seed: int, now: float) -> None:
    """Hazard: a stop that leaves the path that was judged, goes back, or jerks; or one that does not stop."""
    told = wave(seed)
    stop = braked(told, now, twist, LINEAR, ANGULAR)
    assert stop.start == now
    np.testing.assert_allclose(stop.positions[0], told.at(now)[0], atol=1e-12)
    np.testing.assert_allclose(stop.velocities[0], told.at(now)[1], atol=1e-12)
    assert not stop.velocities[-1].any()
    # full speed takes 0.1 s; the path's own acceleration may take a part of the limit
    assert stop.duration < 0.5
    fine = np.linspace(told.start, told.end, 20001)
    path = told.sampled(fine)[0]
    times = np.arange(stop.start, stop.end, 1e-3)
    places = [int(abs(path - q).max(axis=1).argmin()) for q in stop.sampled(times)[0]]
    away = max(abs(path[i] - q).max() for i, q in zip(places, stop.sampled(times)[0], strict=True))
    assert away < 2e-4
    assert (fine[places] <= times + 1e-3).all()  # never ahead of the path
    assert (np.diff(fine[places]) >= -1e-3).all()  # never back
    for part, limit in zip(twists(stop, times), (LINEAR, ANGULAR), strict=True):
        hardest = np.linalg.norm(np.diff(part, axis=0), axis=1).max(initial=0.0) / 1e-3
        assert hardest <= 1.06 * limit


def test_it_stops_as_soon_as_it_may() -> None:
    """Hazard: a limit that is kept by stopping late."""
    times = np.array([0.0, 1.0])
    even = Trajectory(times, np.outer(times, [FAST, 0, 0, 0, 0, 0]), np.outer([1, 1], [FAST, 0, 0, 0, 0, 0]))
    stop = braked(even, 0.3, twist, LINEAR, ANGULAR)
    assert stop.duration == pytest.approx(FAST / LINEAR, abs=0.005)
    assert stop.last[0] - 0.3 * FAST == pytest.approx(FAST**2 / LINEAR / 2, abs=5e-4)


def test_what_slows_down_already_is_not_slowed_down_twice() -> None:
    """Hazard: the path's own end and the stop add up to twice the acceleration."""
    times = np.linspace(0, 0.1, 11)
    ends = Trajectory(
        np.append(times, 0.2),
        np.append(FAST * times - LINEAR * times**2 / 2, FAST * 0.1 - LINEAR * 0.005)[:, None] * np.eye(6)[0],
        np.append(FAST - LINEAR * times, 0.0)[:, None] * np.eye(6)[0],
    )
    for now in (0.0, 0.03, 0.08, 0.0999):
        stop = braked(ends, now, twist, LINEAR, ANGULAR)
        speeds = stop.sampled(np.arange(now, stop.end, 1e-3))[1][:, 0]
        assert abs(np.diff(speeds)).max(initial=0.0) / 1e-3 <= 1.06 * LINEAR


@pytest.mark.parametrize("now", [0.0, 0.5, 1.0, 2.0])
def test_at_rest_it_stays(now: float) -> None:
    q = np.arange(6.0)
    for path in (Trajectory.at_rest(q, 0.5), Trajectory(np.array([0.0, 1.0]), np.stack([q, q]), np.zeros((2, 6)))):
        stop = braked(path, now, twist, LINEAR, ANGULAR)
        np.testing.assert_array_equal(stop.last, q)
        assert not stop.velocities.any()


def test_a_long_path_costs_no_more_than_a_short_one() -> None:
    """Hazard: the e-stop waits while seconds of path are looked at that the arm will never see."""
    arm = JudgedArm()
    arm.act([0, 0.03, 0], duration=2.0)
    arm.run(1.0)
    told, now = arm.driver._told, arm.now + 17.3
    assert told is not None
    begin = time.perf_counter()
    for _ in range(20):
        braked(told, now, arm.kinematics.twist, LINEAR, ANGULAR)
    assert (time.perf_counter() - begin) / 20 < 0.02
