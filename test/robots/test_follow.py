"""Joint paths of the safety filter's model of the arm, which the driver executes as they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safety_arm import parts
from straight_line import Line, followed, straight_to

from openvla_ros.types import Pose

NAMES = ("wx250s", "panda", "fr3")
ELBOW_ASIDE = np.array([-1.8485, -1.7, 1.9583, -1.6606, 1.5602, 2.7213, 2.1887])  # a panda far from its posture

steps = st.lists(st.floats(-1, 1), min_size=6, max_size=6).map(lambda s: np.array(s) * np.repeat([0.03, 0.15], 3))


def assert_pose(actual: Pose, expected: Pose, position: float, rotation: float) -> None:
    translation, rotvec = actual.motion_to(expected)
    assert np.linalg.norm(translation) < position
    assert np.linalg.norm(rotvec) < rotation


@pytest.mark.parametrize("name", NAMES)
@given(step=steps)
@settings(max_examples=25, deadline=None)
def test_a_path_is_straight_and_ends_at_the_target(name: str, step: np.ndarray) -> None:
    """Hazard: an end effector that leaves the line that was judged, at the points of the path or between them."""
    robot, model, kinematics = parts(name)
    q = robot.pose("start")
    target = model.forward(q).moved(step[:3], step[3:])
    line = Line(model.forward(q), target, 0.5)
    path = followed(model, q, line, 10)
    assert path is not None
    for time, position in zip(path.times, path.positions, strict=True):
        assert_pose(kinematics.forward(position), line.pose(time), 1e-5, 1e-4)
    assert_pose(kinematics.forward(path.last), target, 1e-5, 1e-4)
    for time in (path.times[1:] + path.times[:-1]) / 2:
        assert_pose(kinematics.forward(path.at(time)[0]), line.pose(time), 1e-4, 1e-3)


@pytest.mark.parametrize("name", NAMES)
@given(step=steps)
@settings(max_examples=25, deadline=None)
def test_velocities_are_those_of_the_positions_and_of_the_end_effector(name: str, step: np.ndarray) -> None:
    """Hazard: a controller that is told other velocities than the positions have swings between the points."""
    robot, model, kinematics = parts(name)
    q = robot.pose("start")
    line = Line(model.forward(q), model.forward(q).moved(step[:3], step[3:]), 0.5)
    path = followed(model, q, line, 10)
    assert path is not None
    span, v = path.times[2] - path.times[0], path.velocities
    means = (v[:-2] + 4 * v[1:-1] + v[2:]) / 6  # Simpson's rule over two intervals
    differences = (path.positions[2:] - path.positions[:-2]) / span - means
    inner = zip(path.times[1:-1], path.positions[1:-1], v[1:-1], differences, strict=True)
    for time, position, velocity, difference in inner:
        np.testing.assert_allclose(np.concatenate(kinematics.twist(position, velocity)), line.twist(time), atol=1e-4)
        # The elbow's own turning is no part of what follow answers: the filter adds it.
        np.testing.assert_allclose(difference, model.null_space(position, difference), atol=0.01)


@pytest.mark.parametrize("name", NAMES)
@given(step=steps)
@settings(max_examples=25, deadline=None)
def test_another_solver_finds_the_same_joint_positions(name: str, step: np.ndarray) -> None:
    """Hazard: an elbow or a wrist that goes another way than the one of least joint motion."""
    robot, model, kinematics = parts(name)
    q = robot.pose("start")
    line = Line(model.forward(q), model.forward(q).moved(step[:3], step[3:]), 1.0)
    path = followed(model, q, line, 5)
    assert path is not None
    for time, position in zip(path.times[1:], path.positions[1:], strict=True):
        q = kinematics.solve(line.pose(time), q)
        np.testing.assert_allclose(position, q, atol=1e-2)
    np.testing.assert_allclose(path.last, q, atol=2e-3)


def test_a_path_that_leads_nowhere_is_none() -> None:
    """Hazard: an arm that is told to go as far as it can, and ends elsewhere."""
    robot, model, _ = parts("wx250s")
    start = model.forward(robot.pose("start"))
    for position in ((0.9, 0.0, 0.3), (0.3, 0.0, 0.9), (0.0, 0.0, -0.9)):
        line = Line(start, Pose(np.array(position), start.quaternion), 2.0)
        assert followed(model, robot.pose("start"), line) is None


def test_past_the_wrists_singularity_the_path_says_how_fast_the_wrist_would_turn() -> None:
    """Hazard: where forearm and wrist align, a small side step asks for a turn that no motor can make in time, and the
    path hides it from the rule on joint speeds."""
    robot, model, _ = parts("wx250s")
    aligned = np.array([0.0, -0.3, 0.5, 0.0, 0.02, 0.0])
    line = Line(model.forward(aligned), model.forward(aligned).moved(np.zeros(3), np.array([0.0, 0.0, 0.25])), 0.2)
    path = followed(model, aligned, line, 10)
    assert path is None or (abs(np.diff(path.positions, axis=0)) / 0.02 > robot.max_velocity).any()


def test_an_arm_resting_a_hair_beyond_a_limit_can_leave() -> None:
    """Hazard: the sleep pose lies near the shoulder's stop, and a sensor may read past it: the arm is locked there."""
    robot, model, kinematics = parts("wx250s")
    resting = robot.pose("sleep")
    resting[1] = robot.lower[1] - 0.01
    target = kinematics.forward(robot.pose("sleep")).moved(np.array([0.0, 0.0, 0.02]), np.zeros(3))
    path = straight_to(model, resting, target, 0.5, 10)
    np.testing.assert_array_equal(path.positions[0], resting)
    assert_pose(kinematics.forward(path.last), target, 1e-5, 1e-4)
    assert path.last[1] > robot.lower[1]
    assert abs(np.diff(path.positions, axis=0)).max() < 0.05


def test_told_to_stay_a_redundant_arms_elbow_stays() -> None:
    """Hazard: an elbow that turns, into a joint's limit or a person, while the end effector was told to stay."""
    _, model, _ = parts("panda")
    here = model.forward(ELBOW_ASIDE)
    path = straight_to(model, ELBOW_ASIDE, here, 0.2, 5)
    np.testing.assert_allclose(path.positions, np.tile(ELBOW_ASIDE, (6, 1)), atol=1e-6)
    target = here.moved(np.array([0.03, -0.01, 0.02]), np.array([0.0, 0.1, 0.0]))
    assert abs(straight_to(model, ELBOW_ASIDE, target, 0.2, 5).last - ELBOW_ASIDE).max() > 0.02


def test_far_from_its_posture_a_redundant_arms_elbow_does_not_wander_off() -> None:
    """Hazard: the pull towards the posture keeps every solution from its end; a step of millimetres turns the elbow by
    radians."""
    _, model, _ = parts("panda")
    q = np.array([1.458161, 0.579833, -1.548627, -1.958385, 1.822727, 2.63105, 0.049521])
    target = Pose(np.array([0.7, 0.038356, 0.456692]), np.array([0.829272, -0.194688, 0.471207, -0.228842]))
    assert abs(straight_to(model, q, target, 0.2, 5).positions - q).max() < 0.15


def test_a_redundant_arm_comes_back_to_its_posture() -> None:
    """Hazard: seven joints, six constraints: after 200 steps round a square the elbow has wandered off."""
    robot, model, _ = parts("panda")
    q, start = robot.pose("start"), model.forward(robot.pose("start"))
    for corner in ([0.1, 0, 0], [0.1, 0.2, -0.1], [0, 0.2, 0], [0, 0, 0.0]) * 2:
        q = straight_to(model, q, start.moved(np.array(corner), np.zeros(3)), 2.0).last
    assert_pose(model.forward(q), start, 1e-5, 1e-4)
    np.testing.assert_allclose(q, robot.pose("start"), atol=0.1)
