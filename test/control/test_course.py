"""Where the end effector is commanded to be over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safety_scene import START

from openvla_ros import geometry
from openvla_ros.control.safety.course import Course, Step
from openvla_ros.types import Array, Pose

H = 1e-4  # [s]


@st.composite
def courses(draw: Any, in_order: bool = False) -> Course:
    """Up to four steps that overlap. ``in_order``: each begins and ends no earlier than the one before."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    course, begin, end = Course(START, draw(st.sampled_from([0.02, 0.1, 0.3]))), 10.0, 10.0
    for _ in range(draw(st.integers(1, 4))):
        begin += rng.uniform(0, 0.3)
        duration = rng.uniform(0.05, 1.0)
        end = max(end, begin + duration) if in_order else begin + duration
        course = course.then(Step(rng.uniform(-0.05, 0.05, 3), rng.uniform(-0.3, 0.3, 3), begin, end - begin))
    return course


def times_of(course: Course, spacing: float = 1e-3) -> Array:
    return np.arange(9.9, course.end + 0.1, spacing)


@settings(deadline=None)
@given(courses())
def test_velocity_is_continuous_and_acceleration_bounded(course: Course) -> None:
    """Hazard: a step in speed where one step ends and the next begins.

    Each step adds its speed over the window at most; its translation's acceleration is known between ``changes``.
    """
    times = times_of(course)
    hardest = sum(np.linalg.norm(s.translation) / s.duration / course.window for s in course.steps)
    linear, angular = course.velocities(times)
    assert np.linalg.norm(np.diff(linear, axis=0), axis=1).max() <= hardest * 1e-3 * 1.001 + 1e-12
    np.testing.assert_allclose(linear[[0, -1]], 0.0, atol=1e-9)
    most = sum(np.linalg.norm(s.translation) / s.duration for s in course.steps)
    assert np.linalg.norm(linear, axis=1).max() <= most * (1 + 1e-9)
    changes = course.changes(9.95)
    middles = (changes[1:] + changes[:-1]) / 2
    expected = (course.velocities(middles + H)[0] - course.velocities(middles - H)[0]) / (2 * H)
    wide = np.diff(changes) > 4 * H
    np.testing.assert_allclose(course.accelerations(middles)[0][wide], expected[wide], atol=1e-6)
    turning = sum(np.linalg.norm(s.rotvec) / s.duration for s in course.steps)
    assert np.linalg.norm(angular, axis=1).max() <= turning * (1 + 1e-9)


@settings(deadline=None)
@given(courses())
def test_twists_are_the_derivative_of_poses(course: Course) -> None:
    """Hazard: joint velocities that do not belong to the joint positions; the controller then swings between them."""
    times = times_of(course, 0.0173)
    found = course.twists(times)
    before, after = ([course.at(t + d) for t in times.tolist()] for d in (-H, H))
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        translation, rotation = a.motion_to(b)
        np.testing.assert_allclose(found[i, :3], translation / (2 * H), atol=2e-3)
        np.testing.assert_allclose(found[i, 3:], rotation / (2 * H), atol=2e-2)


@settings(deadline=None)
@given(courses(in_order=True))
def test_it_stays_between_its_targets(course: Course) -> None:
    """Hazard: every target is inside the box, and what leads from one to the next is not.

    The bound on every axis is what the convex hull of base and targets has; for steps in the order of their ends.
    """
    poses = [course.base]
    for step in course.steps:
        poses.append(geometry.moved(poses[-1], step.translation, step.rotvec))
    corners = np.array([pose.position for pose in poses])
    rng = np.random.default_rng(0)
    for direction in [*np.eye(3), *rng.normal(size=(20, 3))]:
        along = course.positions(times_of(course)) @ direction
        assert along.max() <= (corners @ direction).max() + 1e-9
        assert along.min() >= (corners @ direction).min() - 1e-9


@settings(deadline=None)
@given(courses(), st.floats(0, 1))
def test_what_is_over_can_be_left_out(course: Course, share: float) -> None:
    """Hazard: the arm leaps when an old step is forgotten."""
    now = 10.0 + share * (course.end - 10.0)
    rest = course.since(now)
    later = np.linspace(now, course.end + 0.1, 30)
    np.testing.assert_allclose(rest.positions(later), course.positions(later), atol=1e-9)
    for time in later.tolist():
        distance, angle = geometry.errors(rest.at(time), course.at(time))
        assert distance < 1e-9
        assert angle < 1e-6
    same: Pose = rest.target()
    assert geometry.errors(same, course.target())[0] < 1e-9


@settings(deadline=None)
@given(courses())
def test_it_ends_at_its_target_and_rests(course: Course) -> None:
    distance, angle = geometry.errors(course.at(course.end), course.target())
    assert distance < 1e-9
    assert angle < 1e-6
    np.testing.assert_allclose(course.twists(np.array([9.9, course.end, course.end + 1])), 0.0, atol=1e-9)


def test_equal_steps_on_time_are_an_even_motion() -> None:
    """Hazard: a stream of actions in which the arm stops and starts at each."""
    course = Course(START, 0.1)
    for k in range(4):
        course = course.then(Step(np.array([0.0, 0.05, 0.0]), np.zeros(3), 0.2 * k, 0.2))
    speeds = course.velocities(np.arange(0.1, 0.8, 0.01))[0][:, 1]
    np.testing.assert_allclose(speeds, 0.25, atol=1e-9)
    assert course.end == pytest.approx(0.9)
    assert course.busy_until == pytest.approx(0.8)
