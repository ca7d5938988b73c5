"""Kinematics against published values, finite differences and itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from openvla_ros.errors import KinematicsError
from openvla_ros.robots.arm_model import ArmModel
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
    assert_pose(KINEMATICS.forward(KINEMATICS.path(resting, target, 0.5, 10)[-1]), target)


def test_an_arm_far_beyond_a_limit_is_refused():
    """Then model and arm disagree, and no plan made with the model may run."""
    beyond = START.copy()
    beyond[1] = ROBOT.upper[1] + 0.2
    with pytest.raises(KinematicsError, match=r"shoulder is at 2\.190 rad"):
        KINEMATICS.path(beyond, KINEMATICS.forward(START), 0.5, 10)


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
        lambda: KINEMATICS.path(q, pose, 0.2, 5),
        lambda: KINEMATICS.solve(Pose(np.array([0.3, bad, 0.2]), pose.quaternion), START),
        lambda: KINEMATICS.path(START, Pose(pose.position, np.array([0, bad, 0, 1.0])), 0.2, 5),
        lambda: KINEMATICS.path(START, pose, bad, 5),
    ):
        with pytest.raises(KinematicsError, match="finite"):
            call()


def test_a_zero_quaternion_is_refused():
    """An unset geometry_msgs/Pose has one."""
    with pytest.raises(KinematicsError, match="unit length"):
        KINEMATICS.solve(Pose(np.array([0.3, 0, 0.2]), np.zeros(4)), START)


def test_path_is_straight_and_ends_at_the_target():
    start = KINEMATICS.forward(START)
    target = start.moved(np.array([0.03, -0.02, -0.04]), np.array([0.05, -0.1, 0.2]))
    path = KINEMATICS.path(START, target, 0.2, 10)
    assert path.shape == (10, 6)
    for i, q in enumerate(path, start=1):
        translation, rotvec = start.motion_to(target)
        assert_pose(KINEMATICS.forward(q), start.moved(translation * i / 10, rotvec * i / 10))
    assert np.abs(np.diff(np.vstack([START, path]), axis=0)).max() / 0.02 < np.pi


def test_path_faster_than_a_joint_is_refused_not_stretched():
    target = KINEMATICS.forward(START).moved(np.array([0.1, 0.15, -0.2]), np.zeros(3))
    assert len(KINEMATICS.path(START, target, 1.0, 10)) == 10
    with pytest.raises(KinematicsError, match=r"rad/s of \w+, which does 3.14"):
        KINEMATICS.path(START, target, 0.05, 10)


def test_path_past_the_wrist_singularity_is_refused_not_flipped():
    """Where forearm and wrist align, a small side step asks the wrist for a turn that no motor can make in time."""
    aligned = np.array([0.0, -0.3, 0.5, 0.0, 0.02, 0.0])
    target = KINEMATICS.forward(aligned).moved(np.zeros(3), np.array([0.0, 0.0, 0.25]))
    with pytest.raises(KinematicsError, match="singularity"):
        KINEMATICS.path(aligned, target, 0.2, 10)


def test_path_out_of_reach_is_refused_before_anything_moves():
    target = KINEMATICS.forward(START).moved(np.array([0.4, 0.0, 0.0]), np.zeros(3))
    with pytest.raises(KinematicsError, match="not reachable"):
        KINEMATICS.path(START, target, 5.0, 20)


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
    assert Kinematics(load_robot("panda")).path(pose, Kinematics(load_robot("panda")).forward(pose), 0.2, 2).shape
    with pytest.raises(KinematicsError, match="fr3_joint6"):
        Kinematics(load_robot("fr3")).path(pose, Kinematics(load_robot("fr3")).forward(pose), 0.2, 2)


def test_a_redundant_arm_comes_back_to_its_posture():
    """Seven joints, six constraints: after 200 steps round a square the elbow must not have wandered off."""
    robot = load_robot("panda")
    kinematics = Kinematics(robot)
    q, start = robot.pose("start"), kinematics.forward(robot.pose("start"))
    corners = [np.array(c) for c in ([0.1, 0, 0], [0.1, 0.2, -0.1], [0, 0.2, 0], [0, 0, 0.0])]
    for corner in corners * 2:
        q = kinematics.path(q, start.moved(corner, np.zeros(3)), 2.0, 25)[-1]
    assert_pose(kinematics.forward(q), start)
    np.testing.assert_allclose(q, robot.pose("start"), atol=0.1)


def test_far_from_its_posture_a_redundant_arms_elbow_does_not_wander_off():
    """Hazard: the pull towards the posture keeps every solution from its end; a step of millimetres turns the elbow by
    radians, or is refused for its speed."""
    kinematics = Kinematics(load_robot("panda"))
    q = np.array([1.458161, 0.579833, -1.548627, -1.958385, 1.822727, 2.63105, 0.049521])
    target = Pose(np.array([0.7, 0.038356, 0.456692]), np.array([0.829272, -0.194688, 0.471207, -0.228842]))
    path = kinematics.path(q, target, 0.2, 5)
    assert np.abs(path - q).max() < 0.15


def test_told_to_stay_a_redundant_arms_elbow_stays_and_filter_and_driver_agree_where_it_goes():
    """Hazard: an elbow that turns, into a joint's limit or a person, while the end effector was told to stay."""
    robot = load_robot("panda")
    kinematics, model = Kinematics(robot), ArmModel(robot)
    q = np.array([-1.8485, -1.7, 1.9583, -1.6606, 1.5602, 2.7213, 2.1887])
    here = kinematics.forward(q)
    np.testing.assert_allclose(kinematics.path(q, here, 0.2, 5), np.tile(q, (5, 1)), atol=1e-6)
    np.testing.assert_allclose(followed(model, q, here), np.tile(q, (5, 1)), atol=1e-6)
    target = here.moved(np.array([0.03, -0.01, 0.02]), np.array([0.0, 0.1, 0.0]))
    driven = kinematics.path(q, target, 0.2, 5)
    np.testing.assert_allclose(followed(model, q, target), driven, atol=2e-3)
    assert np.abs(driven[-1] - q).max() > 0.02


def followed(model: ArmModel, q: np.ndarray, target: Pose) -> np.ndarray:
    """(5, n) the filter's joint positions on the straight way from q (n,)."""
    here = model.forward(q)
    translation, rotvec = here.motion_to(target)
    poses = [here.moved(share * translation, share * rotvec) for share in np.arange(1, 6) / 5]
    points, quaternions = np.array([p.position for p in poses]), np.array([p.quaternion for p in poses])
    found = model.follow(q, points, quaternions, np.zeros((5, 6)))
    assert found is not None
    return found[0]
