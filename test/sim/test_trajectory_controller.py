"""The simulated controller accepts and refuses what ros2_control's JointTrajectoryController does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.sim.trajectory_controller import TrajectoryController, TrajectoryRejectedError

NAMES = ("a", "b")
NAN = float("nan")


@pytest.fixture
def controller() -> TrajectoryController:
    return TrajectoryController(NAMES, np.array([1.0, 2.0]))


def test_holds_where_it_begins(controller):
    position, velocity = controller.sample(100.0)
    assert position.tolist() == [1.0, 2.0]
    assert velocity.tolist() == [0.0, 0.0]


def test_linear_between_points_and_holds_the_last(controller):
    controller.accept(NAMES, [1.0, 2.0], [[2.0, 2.0], [2.0, 4.0]], now=10.0)
    assert controller.sample(10.0)[0].tolist() == [1.0, 2.0]
    assert controller.sample(10.5)[0].tolist() == [1.5, 2.0]
    assert controller.sample(11.5)[0].tolist() == [2.0, 3.0]
    assert controller.sample(11.5)[1].tolist() == [0.0, 2.0]
    assert not controller.finished(11.9)
    assert controller.finished(12.0)
    assert controller.sample(99.0)[0].tolist() == [2.0, 4.0]
    assert controller.sample(99.0)[1].tolist() == [0.0, 0.0]


def test_cubic_where_velocities_are_given(controller):
    controller.accept(NAMES, [1.0], [[2.0, 2.0]], [[0.0, 0.0]], now=0.0)
    position, velocity = controller.sample(0.5)
    assert position[0] == pytest.approx(1.5)
    assert velocity[0] == pytest.approx(1.5)  # of the cubic at rest on both ends; linear would be 1
    h = 1e-6
    numeric = (controller.sample(0.3 + h)[0] - controller.sample(0.3 - h)[0]) / (2 * h)
    np.testing.assert_allclose(controller.sample(0.3)[1], numeric, atol=1e-6)


def test_joints_in_any_order(controller):
    """A driver may list joints alphabetically; the positions must follow their names."""
    controller.accept(("b", "a"), [1.0], [[5.0, 3.0]], now=0.0)
    assert controller.sample(1.0)[0].tolist() == [3.0, 5.0]


@pytest.mark.parametrize(
    ("names", "times", "positions", "velocities", "reason"),
    [
        (("a", "c"), [1.0], [[0.0, 0.0]], None, "exactly"),
        (("a",), [1.0], [[0.0]], None, "exactly"),
        (("a", "a"), [1.0], [[0.0, 0.0]], None, "exactly"),
        (("a", "b", "b"), [1.0], [[0.0, 0.0, 0.0]], None, "exactly"),
        (NAMES, [1.0], [[0.0, NAN]], None, "finite"),
        (NAMES, [1.0], [[0.0, float("inf")]], None, "finite"),
        (NAMES, [NAN], [[0.0, 0.0]], None, "finite"),
        (NAMES, [1.0], [[0.0, 0.0]], [[0.0, NAN]], "finite"),
        (NAMES, [1.0], [[0.0, 0.0, 0.0]], None, "shape"),
        (NAMES, [1.0, 2.0], [[0.0, 0.0]], None, "shape"),
        (NAMES, [1.0, 2.0], [[0.0, 0.0], [0.0]], None, "table of numbers"),
        (NAMES, [1.0], [[0.0, 0.0]], [[0.0]], "shape"),
        (NAMES, [1.0, 1.0], [[0.0, 0.0]] * 2, None, "strictly increase"),
        (NAMES, [2.0, 1.0], [[0.0, 0.0]] * 2, None, "strictly increase"),
        (NAMES, [-1.0, 1.0], [[0.0, 0.0]] * 2, None, "negative"),
        (NAMES, [1.0], [[0.0, 0.0]], [[0.0, 0.1]], "last velocities"),
        (NAMES, [], np.zeros((0, 2)), None, "no points"),
        (NAMES, [], [], None, "dimension"),
    ],
)
def test_what_does_not_fit_is_rejected_and_the_old_goes_on(controller, names, times, positions, velocities, reason):
    """A NaN or a wrong joint must neither move the arm nor stop the motion that is under way."""
    controller.accept(NAMES, [2.0], [[3.0, 2.0]], now=0.0)
    with pytest.raises(TrajectoryRejectedError, match=reason):
        controller.accept(names, times, positions, velocities, now=1.0)
    assert controller.sample(1.0)[0].tolist() == [2.0, 2.0]
    assert controller.sample(2.0)[0].tolist() == [3.0, 2.0]


def test_a_trajectory_of_the_past_is_rejected(controller):
    with pytest.raises(TrajectoryRejectedError, match=r"0\.500 s ago"):
        controller.accept(NAMES, [1.0], [[9.0, 9.0]], now=11.5, start=10.0)


def test_a_late_trajectory_skips_what_is_past_without_a_jump(controller):
    controller.accept(NAMES, [0.5, 1.5], [[8.0, 2.0], [3.0, 2.0]], now=11.0, start=10.0)
    assert controller.sample(11.0)[0].tolist() == [1.0, 2.0]
    assert controller.sample(11.25)[0].tolist() == [2.0, 2.0]
    assert controller.sample(11.5)[0].tolist() == [3.0, 2.0]


values = st.floats(-3, 3)


@given(
    first=st.tuples(values, values),
    second=st.tuples(values, values),
    at=st.floats(0.0, 1.4),
    smooth=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_replacing_a_trajectory_on_the_way_never_jumps(first, second, at, smooth):
    """5 Hz control replaces every trajectory before its end: the desired position must stay continuous."""
    controller = TrajectoryController(NAMES, np.zeros(2))
    rest = [[0.0, 0.0]] if smooth else None
    controller.accept(NAMES, [1.0], [first], rest, now=0.0)
    before, velocity = controller.sample(at)
    controller.accept(NAMES, [0.5], [second], rest, now=at)
    after, new_velocity = controller.sample(at)
    np.testing.assert_allclose(after, before, atol=1e-12)
    np.testing.assert_allclose(controller.sample(at + 1e-7)[0], before, atol=1e-5)
    np.testing.assert_allclose(controller.sample(at + 0.5)[0], second, atol=1e-12)
    if smooth:
        np.testing.assert_allclose(new_velocity, velocity, atol=1e-9)
