"""The fast quaternion arithmetic gives what scipy gives."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from openvla_ros import geometry
from openvla_ros.types import Pose, rpy_to_rotvec

VECTORS = st.lists(
    st.one_of(st.floats(-3, 3), st.sampled_from([0.0, 5e-324, 1e-13, 1e-7])), min_size=3, max_size=3
).map(lambda v: np.array(v, dtype=np.float64))


def same(q: np.ndarray, rotation: Rotation) -> bool:
    return abs(abs(q @ rotation.as_quat()) - 1) < 1e-12


@given(VECTORS, VECTORS)
def test_products_inverses_and_vectors_agree_with_scipy(a: np.ndarray, b: np.ndarray) -> None:
    p, q = geometry.from_rotvec(a), geometry.from_rotvec(b)
    ra, rb = Rotation.from_rotvec(a), Rotation.from_rotvec(b)
    assert same(p, ra)
    assert same(geometry.multiply(p, q), ra * rb)
    assert same(geometry.between(p, q), rb * ra.inv())
    assert same(geometry.from_rotvec(geometry.to_rotvec(p)), ra)
    assert math.hypot(*geometry.to_rotvec(p)) <= math.pi + 1e-12
    if np.linalg.norm(a) < 3.1:
        np.testing.assert_allclose(geometry.to_rotvec(p), a, atol=1e-12)


@given(VECTORS)
def test_rpy_is_that_of_the_actions(rpy: np.ndarray) -> None:
    """Hazard: two Euler conventions in one package."""
    q = geometry.from_rpy(rpy)
    assert same(q, Rotation.from_rotvec(rpy_to_rotvec(rpy)))
    if abs(rpy[1]) < 1.5:
        assert same(geometry.from_rpy(geometry.to_rpy(q)), Rotation.from_quat(q))
    if np.abs(rpy).max() < 1.5:
        np.testing.assert_allclose(geometry.to_rpy(q), rpy, atol=1e-9)


@given(VECTORS, VECTORS, VECTORS)
def test_motions_of_poses_agree_with_types(position: np.ndarray, translation: np.ndarray, rotvec: np.ndarray) -> None:
    pose = Pose(position, geometry.from_rotvec(translation))
    ours, theirs = geometry.moved(pose, translation, rotvec), pose.moved(translation, rotvec)
    np.testing.assert_allclose(ours.position, theirs.position)
    assert same(ours.quaternion, theirs.rotation)
    distance, angle = geometry.errors(pose, ours)
    assert math.isclose(distance, float(np.linalg.norm(ours.position - pose.position)), abs_tol=1e-12)
    if np.linalg.norm(rotvec) < 3.1:
        assert math.isclose(angle, float(np.linalg.norm(rotvec)), abs_tol=1e-9)
