"""Kinematics against published values, finite differences and itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from openvla_ros.errors import KinematicsError
from openvla_ros.robots.description import load_robot
from openvla_ros.robots.kinematics import POSITION_TOLERANCE, ROTATION_TOLERANCE, Kinematics
from openvla_ros.types import Pose

DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
ROBOT = load_robot("wx250s")
KINEMATICS = Kinematics(ROBOT)
START = ROBOT.pose("start")

joint_positions = st.tuples(*[st.floats(j.lower, j.upper) for j in ROBOT.joints]).map(np.array)


def assert_pose(
    actual: Pose, expected: Pose, position: float = POSITION_TOLERANCE, rotation: float = ROTATION_TOLERANCE
):
    translation, rotvec = actual.motion_to(expected)
    assert np.linalg.norm(translation) < position
    assert np.linalg.norm(rotvec) < rotation


def test_zero_pose_of_the_manufacturers_description():
    pose = KINEMATICS.forward(np.zeros(6))
    np.testing.assert_allclose(pose.position, [0.458325, 0.0, 0.36065], atol=1e-9)
    np.testing.assert_allclose(pose.rotation.as_matrix(), np.eye(3), atol=1e-9)


def test_start_pose_is_bridges():
    pose = KINEMATICS.forward(START)
    np.testing.assert_allclose(pose.position, [0.3, -0.09, 0.26], atol=1e-5)
    np.testing.assert_allclose(pose.rotation.as_matrix(), [[0.267, 0, 0.963], [0, 1, 0], [-0.963, 0, 0.267]], atol=1e-3)


def test_gripper_down_means_tool_x_down():
    """The end effector's x axis is the approach axis: Bridge's default rotation points it at the table."""
    q = KINEMATICS.solve(Pose.from_rotation(np.array([0.3, 0.0, 0.1]), Rotation.from_matrix(DOWN)), START)
    np.testing.assert_allclose(KINEMATICS.forward(q).rotation.apply([1, 0, 0]), [0, 0, -1], atol=1e-3)


@given(q=joint_positions, direction=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_jacobian_is_the_derivative_in_base_axes(q, direction):
    """Linear rows on top, angular below, both in base axes, not in the tool's."""
    h = 1e-6
    step = h * np.eye(6)[direction]
    translation, rotvec = KINEMATICS.forward(q - step).motion_to(KINEMATICS.forward(q + step))
    expected = np.concatenate([translation, rotvec]) / (2 * h)
    np.testing.assert_allclose(KINEMATICS.jacobian(q)[:, direction], expected, atol=1e-6)


def test_twist_of_the_waist_turning():
    linear, angular = KINEMATICS.twist(np.zeros(6), np.array([1.0, 0, 0, 0, 0, 0]))
    np.testing.assert_allclose(linear, [0, 0.458325, 0], atol=1e-9)
    np.testing.assert_allclose(angular, [0, 0, 1], atol=1e-9)


@given(q=joint_positions, offset=st.lists(st.floats(-0.3, 0.3), min_size=6, max_size=6))
@settings(max_examples=100, deadline=None)
def test_solve_reaches_every_pose_near_a_reachable_one(q, offset):
    target = KINEMATICS.forward(q)
    seed = np.clip(q + np.array(offset), ROBOT.lower, ROBOT.upper)
    solution = KINEMATICS.solve(target, seed)
    assert_pose(KINEMATICS.forward(solution), target)
    assert (solution >= ROBOT.lower).all()
    assert (solution <= ROBOT.upper).all()


def test_small_motions_do_not_vanish_in_the_tolerance():
    """A slow stream of motions, each below the tolerance, must move the arm each time, not in jumps."""
    start = KINEMATICS.forward(START)
    q = KINEMATICS.solve(start.moved(np.array([0, 0, 0.5 * POSITION_TOLERANCE]), np.zeros(3)), START)
    np.testing.assert_allclose(KINEMATICS.forward(q).position - start.position, [0, 0, 5e-5], atol=1e-6)


@pytest.mark.parametrize("position", [[0.9, 0.0, 0.2], [0.3, 0.0, 0.9], [0.0, 0.0, -0.9]])
def test_out_of_reach_is_refused_with_what_is_left(position):
    target = Pose.from_rotation(np.array(position), Rotation.from_matrix(DOWN))
    with pytest.raises(KinematicsError, match=r"stays [0-9.]+ mm and [0-9.]+ deg away"):
        KINEMATICS.solve(target, START)


def test_a_joint_limit_is_refused_and_named():
    """Tilted up from straight up at the wrist: geometry allows it, the wrist's upper limit does not."""
    beyond = START.copy()
    beyond[4] = ROBOT.upper[4]
    target = KINEMATICS.forward(beyond).moved(np.zeros(3), np.array([0.0, 0.9, 0.0]))
    with pytest.raises(KinematicsError, match="at a joint limit"):
        KINEMATICS.solve(target, beyond)


def test_an_arm_resting_a_hair_beyond_a_limit_can_leave():
    """The sleep pose lies near the shoulder's stop, and a sensor may read past it; that must not lock the arm there."""
    resting = ROBOT.pose("sleep")
    resting[1] = ROBOT.lower[1] - 0.01
    target = KINEMATICS.forward(ROBOT.pose("sleep")).moved(np.array([0.0, 0.0, 0.02]), np.zeros(3))
    assert_pose(KINEMATICS.forward(KINEMATICS.solve(target, resting)), target)


def test_an_arm_far_beyond_a_limit_is_refused():
    """Then model and arm disagree, and no plan made with the model may run."""
    beyond = START.copy()
    beyond[1] = ROBOT.upper[1] + 0.2
    with pytest.raises(KinematicsError, match=r"shoulder is at 2\.190 rad"):
        KINEMATICS.solve(KINEMATICS.forward(START), beyond)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_is_refused_everywhere(bad):
    """A driver that lost a motor reports NaN joints; np.clip passes NaN; neither may become a motion."""
    q = START.copy()
    q[3] = bad
    pose = KINEMATICS.forward(START)
    for call in (
        lambda: KINEMATICS.forward(q),
        lambda: KINEMATICS.jacobian(q),
        lambda: KINEMATICS.twist(START, q),
        lambda: KINEMATICS.solve(pose, q),
        lambda: KINEMATICS.solve(Pose(np.array([0.3, bad, 0.2]), pose.quaternion), START),
        lambda: KINEMATICS.solve(Pose(pose.position, np.array([0, bad, 0, 1.0])), START),
    ):
        with pytest.raises(KinematicsError, match="finite"):
            call()


def test_a_zero_quaternion_is_refused():
    """An unset geometry_msgs/Pose has one."""
    with pytest.raises(KinematicsError, match="unit length"):
        KINEMATICS.solve(Pose(np.array([0.3, 0, 0.2]), np.zeros(4)), START)


@pytest.mark.parametrize("name", ["panda", "fr3"])
def test_franka_start_pose_of_the_published_kinematics(name):
    robot = load_robot(name)
    pose = Kinematics(robot).forward(np.array([0, -np.pi / 4, 0, -3 * np.pi / 4, 0, np.pi / 2, np.pi / 4]))
    np.testing.assert_allclose(pose.position, [0.306891, 0.0, 0.486882], atol=1e-6)
    np.testing.assert_allclose(pose.rotation.apply([0, 0, 1]), [0, 0, -1], atol=1e-9)
    np.testing.assert_allclose(robot.pose("start"), [0, -np.pi / 4, 0, -3 * np.pi / 4, 0, np.pi / 2, np.pi / 4])


def test_the_two_frankas_differ_in_their_limits():
    """Same model file: the FR3's sixth joint must not be allowed where only the Panda's may go."""
    pose = load_robot("panda").pose("start")
    pose[5] = 0.1
    panda, fr3 = Kinematics(load_robot("panda")), Kinematics(load_robot("fr3"))
    np.testing.assert_allclose(panda.solve(panda.forward(pose), pose), pose, atol=1e-6)
    with pytest.raises(KinematicsError, match="fr3_joint6"):
        fr3.solve(fr3.forward(pose), pose)


def test_told_to_stay_a_redundant_arms_elbow_stays():
    """Hazard: the pull towards the posture turns the elbow while the end effector is where it should be."""
    kinematics = Kinematics(load_robot("panda"))
    q = np.array([-1.8485, -1.7, 1.9583, -1.6606, 1.5602, 2.7213, 2.1887])
    np.testing.assert_allclose(kinematics.solve(kinematics.forward(q), q), q, atol=1e-6)


def test_far_from_its_posture_a_redundant_arms_elbow_does_not_wander_off():
    """Hazard: the pull towards the posture keeps every solution from its end; centimetres turn the elbow by radians."""
    kinematics = Kinematics(load_robot("panda"))
    q = np.array([1.458161, 0.579833, -1.548627, -1.958385, 1.822727, 2.63105, 0.049521])
    target = Pose(np.array([0.7, 0.038356, 0.456692]), np.array([0.829272, -0.194688, 0.471207, -0.228842]))
    assert np.abs(kinematics.solve(target, q) - q).max() < 0.15
