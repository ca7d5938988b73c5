"""The safety filter's model of the arm, against the driver's kinematics, finite differences and plain geometry."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safety_arm import parts

from openvla_ros.errors import ConfigError
from openvla_ros.robots.arm_model import ArmModel
from openvla_ros.robots.description import load_robot
from openvla_ros.robots.model import kinematic_model

ROBOT, MODEL, KINEMATICS = parts("wx250s")
NAMES = ("wx250s", "panda", "fr3")

postures = st.tuples(*[st.floats(j.lower, j.upper) for j in ROBOT.joints]).map(np.array)


def placed(q: np.ndarray, opening: float = 1.0) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = kinematic_model(ROBOT, fingers=opening)
    data = mujoco.MjData(model)
    data.qpos[:] = q
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_the_drivers(name: str) -> None:
    robot, model, kinematics = parts(name)
    for q in (robot.pose("start"), robot.lower + 0.3, robot.upper - 0.4):
        translation, rotvec = model.forward(q).motion_to(kinematics.forward(q))
        np.testing.assert_allclose([*translation, *rotvec], 0, atol=1e-9)


def test_the_reach_is_the_stretched_arms() -> None:
    """Straight up and out: 0.11 m of shoulder height and 0.65 m of arm, by the manufacturer's dimensions."""
    assert 0.75 < MODEL.reach < 0.82


@given(q=postures)
@settings(max_examples=40, deadline=None)
def test_the_singular_value_is_the_jacobians(q: np.ndarray) -> None:
    expected = np.linalg.svd(KINEMATICS.jacobian(q), compute_uv=False)[-1]
    assert MODEL.smallest_singular_value(q) == pytest.approx(expected, abs=1e-9)


def test_a_redundant_arm_can_move_its_elbow_alone() -> None:
    robot, model, kinematics = parts("panda")
    q = robot.pose("start")
    offset = model.null_space(q, 0.1 * np.ones(7))
    assert np.linalg.norm(offset) > 0.01
    np.testing.assert_allclose(kinematics.jacobian(q) @ offset, 0, atol=1e-6)
    np.testing.assert_array_equal(MODEL.null_space(ROBOT.pose("start"), np.ones(6)), 0)


@given(q=postures)
@settings(max_examples=40, deadline=None)
def test_distances_are_those_of_all_pairs_whatever_the_quick_way(q: np.ndarray) -> None:
    """Hazard: a pair that the bounding spheres leave out although it is near."""
    model, data = placed(q)
    found = MODEL.distances(q, 0.05)
    exact = [min(mujoco.mj_geomDistance(model, data, a, b, 0.05, None), 0.05) for a, b in MODEL._pairs]
    np.testing.assert_allclose(found, exact, atol=1e-9)


def test_links_far_down_the_arm_are_watched_and_joined_ones_are_not() -> None:
    names = set(MODEL.pair_names)
    assert "wx250s_base and gripper_link" in names
    assert "wx250s_base and left_finger_link" in names
    assert not any("wrist_link and gripper_link" in n or "left_finger_link and right_finger" in n for n in names)
    assert not any("link5 and link7" in n for n in parts("panda")[1].pair_names)


@given(q=postures)
@settings(max_examples=40, deadline=None)
def test_heights_are_of_the_lowest_points(q: np.ndarray) -> None:
    """Against a ball far below: its distance to a shape is that of the shape's lowest point, nearly."""
    model, data = placed(q)
    heights = dict(zip(MODEL._moving.tolist(), MODEL.heights(q), strict=True))
    for geom, height in heights.items():
        points = surface(model, data, geom)
        assert height <= points[:, 2].min() + 1e-9
        assert height == pytest.approx(points[:, 2].min(), abs=2e-3)


@pytest.mark.parametrize("name", NAMES[:2])
def test_extents_are_of_the_outermost_points_and_corners_move_at_least_as_far(name: str) -> None:
    """Hazard: a point of a shape that is further out, or faster, than the model says."""
    robot, arm, _ = parts(name)
    model, rng = kinematic_model(robot, fingers=1.0), np.random.default_rng(1)
    for _ in range(4):
        q = rng.uniform(arm.lower, arm.upper)
        places = []
        for joints in (q, q + 0.1 * rng.normal(size=len(q))):
            data = mujoco.MjData(model)
            data.qpos[:] = joints
            mujoco.mj_forward(model, data)
            places.append([surface(model, data, geom) for geom in arm._moving])
        least, greatest = arm.extents(q)
        moved = np.linalg.norm(np.diff(arm.corners(np.stack([q, joints])), axis=1)[:, 0], axis=1).max(axis=1)
        for i, (points, later) in enumerate(zip(*places, strict=True)):
            np.testing.assert_allclose(points.min(axis=0), least[i], atol=2e-3)
            np.testing.assert_allclose(points.max(axis=0), greatest[i], atol=2e-3)
            assert (points >= least[i] - 1e-9).all()
            assert (points <= greatest[i] + 1e-9).all()
            fastest = np.linalg.norm(later - points, axis=1).max()
            assert fastest <= moved[i] + 1e-9
            assert moved[i] <= fastest + 0.01 * np.sqrt(len(q))


@pytest.mark.parametrize("name", NAMES[:2])
def test_distances_from_boxes_are_those_of_the_nearest_points(name: str) -> None:
    """Hazard: a box that the quick way leaves out although it is near, or a distance that is not the least."""
    arm = parts(name)[1]
    rng, near, inside = np.random.default_rng(2), 0, 0
    for _ in range(40):
        q = rng.uniform(arm.lower, arm.upper)
        # Somewhere on the arm's way, long in any direction.
        middle = arm.extents(q)[0][rng.integers(len(arm.link_names))] + rng.normal(scale=0.06, size=3)
        half = 0.02 * 5 ** rng.uniform(-1, 1, 3)
        box = (tuple((middle - half).tolist()), tuple((middle + half).tolist()))
        among = arm.among((box,))
        found = among.obstacle_distances(q, 0.05)[:, 0]
        for i, geom in enumerate(among._moving.tolist()):
            expected = min(apart(among._model, among._data, geom, middle, half), 0.05)
            near, inside = near + (0 < expected < 0.05), inside + (found[i] < 0)
            assert max(found[i], 0.0) == pytest.approx(expected, abs=2e-5)
    assert near > 30
    assert inside > 15


def apart(model: mujoco.MjModel, data: mujoco.MjData, geom: int, middle: np.ndarray, half: np.ndarray) -> float:
    """[m] between a shape and a box, 0 where they overlap: by projecting onto the one and the other in turn."""
    place, axes = data.geom_xpos[geom], data.geom_xmat[geom].reshape(3, 3)
    size, kind = model.geom_size[geom], int(model.geom_type[geom])
    point = place.copy()
    for _ in range(3000):
        other = np.clip(point, middle - half, middle + half)
        local = (other - place) @ axes
        if kind == mujoco.mjtGeom.mjGEOM_BOX:
            local = np.clip(local, -size, size)
        elif kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
            local[:2] *= min(1.0, size[0] / max(np.linalg.norm(local[:2]), 1e-12))
            local[2] = np.clip(local[2], -size[1], size[1])
        else:
            axis = np.array([0, 0, np.clip(local[2], -size[1], size[1]) if kind != mujoco.mjtGeom.mjGEOM_SPHERE else 0])
            local = axis + (local - axis) * min(1.0, size[0] / max(np.linalg.norm(local - axis), 1e-12))
        point, before = place + axes @ local, point
        if np.linalg.norm(point - before) < 1e-9:
            break
    return float(np.linalg.norm(point - np.clip(point, middle - half, middle + half)))


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_held_object_reaches_as_far_as_it_is_told_to(name: str) -> None:
    """Hazard: the allowance lies along another axis than the hand's, or begins at another point than the fingertips."""
    robot, arm, _ = parts(name)
    q = robot.pose("start")
    if name == "wx250s":
        q = np.array([0.0, 0.0, 0.0, 0.0, np.pi / 2, 0.0])  # straight down, as the panda's start pose is
    holding = arm.among((), 0.07, 0.04)
    assert holding.link_names == (*arm.link_names, "held object")
    (least, greatest), bare = (e[-1] for e in holding.extents(q)), arm.extents(q)[0]
    assert least[2] == pytest.approx(bare[-1][2] - 0.07, abs=1e-6)
    point = arm.forward(q).position
    np.testing.assert_allclose(greatest[:2] - point[:2], 0.04, atol=1e-3)
    np.testing.assert_allclose(point[:2] - least[:2], 0.04, atol=1e-3)
    assert greatest[2] > point[2]
    assert holding.pair_names == arm.pair_names
    assert arm.among((), 0.07, 0.04) is holding
    assert arm.among(()) is arm


def surface(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> np.ndarray:
    """(k, 3) points of a shape's hull in the base frame."""
    size, kind = model.geom_size[geom], int(model.geom_type[geom])
    circle = np.linspace(0, 2 * np.pi, 200)
    ring = np.stack([np.cos(circle), np.sin(circle)], axis=1)
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        local = np.array(np.meshgrid(*([-s, s] for s in size))).reshape(3, -1).T
    elif kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        local = np.array([[*(size[0] * p), z] for p in ring for z in (-size[1], size[1])])
    else:
        ball = np.random.default_rng(0).normal(size=(20000, 3))
        ball *= size[0] / np.linalg.norm(ball, axis=1, keepdims=True)
        end = np.array([0, 0, size[1] if kind == mujoco.mjtGeom.mjGEOM_CAPSULE else 0.0])
        local = np.concatenate([ball + end, ball - end])
    return data.geom_xpos[geom] + local @ data.geom_xmat[geom].reshape(3, 3).T


def test_the_fingers_are_open() -> None:
    """Hazard: distances of a closed gripper, while the real one is open and wider."""
    _, data = placed(ROBOT.pose("start"))
    left, right = data.body("left_finger_link"), data.body("right_finger_link")
    assert np.linalg.norm(left.xpos - right.xpos) == pytest.approx(0.074, abs=1e-6)


def test_unknown_touching_links_are_refused() -> None:
    robot = load_robot("panda").model_copy(update={"touching_links": (("link5", "link77"),)})
    with pytest.raises(ConfigError, match="link77"):
        ArmModel(robot)


def test_a_shape_without_a_lowest_point_is_refused(tmp_path) -> None:
    """Hazard: a mesh that the table rule would not see."""
    text = ROBOT.model.read_text().replace('type="capsule" fromto="0 0 0.243 0.04975 0 0.25" size="0.021"',
                                           'type="ellipsoid" pos="0 0 0.25" size="0.02 0.02 0.03"')  # fmt: skip
    path = tmp_path / "arm.xml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="upper_arm_link has a colliding shape"):
        ArmModel(ROBOT.model_copy(update={"model": path}))
