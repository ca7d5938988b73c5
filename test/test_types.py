"""The values that all parts share: poses move in base axes, rotations are about fixed axes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from openvla_ros.types import Action, Array, Pose, rpy_to_rotvec

vectors = arrays(np.float64, 3, elements=st.floats(-2.0, 2.0))
small = arrays(np.float64, 3, elements=st.floats(-1.0, 1.0))  # below pi in length: one rotation vector each
quaternions = arrays(np.float64, 4, elements=st.floats(-1.0, 1.0)).filter(lambda q: np.linalg.norm(q) > 0.1)


def pose(position: Array, quaternion: Array) -> Pose:
    return Pose(position, quaternion / np.linalg.norm(quaternion))


@given(vectors, quaternions, vectors, small)
def test_a_motion_is_measured_as_it_was_made(position: Array, quaternion: Array, translation: Array, rotvec: Array):
    start = pose(position, quaternion)
    measured = start.motion_to(start.moved(translation, rotvec))
    np.testing.assert_allclose(measured[0], translation, atol=1e-9)
    np.testing.assert_allclose(measured[1], rotvec, atol=1e-6)


def test_motions_are_in_base_axes() -> None:
    """Hazard: an action applied in the end effector's axes. With the gripper pointing down, "up" would go sideways, and
    a turn about the base's z would tilt the gripper."""
    down = Pose(np.zeros(3), Rotation.from_euler("y", 90, degrees=True).as_quat())
    moved = down.moved(np.array([0, 0, 0.1]), np.array([0, 0, np.pi / 2]))
    np.testing.assert_allclose(moved.position, [0, 0, 0.1])
    tool = moved.rotation.apply([1.0, 0.0, 0.0])  # the axis that points down
    np.testing.assert_allclose(tool, [0, 0, -1], atol=1e-12)


def test_roll_pitch_yaw_are_about_fixed_axes() -> None:
    """Hazard: 'XYZ' (moving axes) for 'xyz' (fixed ones): right for each angle alone, wrong together."""
    roll, pitch, yaw = 0.3, -0.4, 0.5

    def about(axis: int, angle: float) -> Array:
        c, s = np.cos(angle), np.sin(angle)
        m = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        sign = -1.0 if axis == 1 else 1.0
        m[i, i] = m[j, j] = c
        m[i, j], m[j, i] = -sign * s, sign * s
        return m

    expected = about(2, yaw) @ about(1, pitch) @ about(0, roll)
    actual = Rotation.from_rotvec(rpy_to_rotvec(np.array([roll, pitch, yaw]))).as_matrix()
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_an_actions_seven_numbers_keep_their_places() -> None:
    values = np.arange(7.0)
    action = Action.from_array(values)
    np.testing.assert_array_equal(action.translation, [0, 1, 2])
    np.testing.assert_array_equal(action.rotation, [3, 4, 5])
    assert action.gripper == 6.0
    np.testing.assert_array_equal(action.to_array(), values)
