"""Messages to values and back."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import openvla_ros.msg as ours
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safety_scene import START, arm_state
from sensor_msgs.msg import CompressedImage, Image

from openvla_ros.drive.interfaces.joint_trajectory import ArmTrajectory
from openvla_ros.images import ImageError
from openvla_ros.ros import conversion
from openvla_ros.types import Action, Command, RuleReport


@given(st.floats(0.0, 4e9))
def test_times_survive(value: float) -> None:
    """Hazard: a nanosecond field of 10^9 or below zero, from rounding: rclpy refuses it and the node ends."""
    message = conversion.time_msg(value)
    assert 0 <= message.nanosec < 10**9
    assert conversion.seconds(message) == pytest.approx(value, abs=1e-6)


@given(st.floats(-100.0, 100.0))
def test_durations_survive_below_zero_too(value: float) -> None:
    message = conversion.duration_msg(value)
    assert 0 <= message.nanosec < 10**9
    assert conversion.seconds(message) == pytest.approx(value, abs=1e-9)


def test_action_survives() -> None:
    message = ours.DeltaAction(sequence=7, episode_id="e", duration=conversion.duration_msg(0.2))
    message.header.stamp, message.inference_ended = conversion.time_msg(5.0), conversion.time_msg(5.1)
    action = Action(np.array([1.0, 2, 3]), np.array([4.0, 5, 6]), 0.7)
    conversion.fill_action(message, action)
    stamped = conversion.stamped_action(message)
    np.testing.assert_array_equal(stamped.action.to_array(), action.to_array())
    assert (stamped.observation_stamp, stamped.stamp, stamped.duration) == (5.0, pytest.approx(5.1), 0.2)
    assert (stamped.sequence, stamped.episode_id) == (7, "e")


@pytest.mark.parametrize("hold", [False, True])
def test_command_survives(hold: bool) -> None:
    """Hazard: a HOLD that arrives as a MOVE."""
    command = Command(START, 0.3, 0.25, 9, action_sequence=8, episode_id="e", hold=hold)
    back = conversion.command(conversion.command_msg(command))
    assert replace(back, target=START) == replace(command, target=START)
    np.testing.assert_array_equal(back.target.position, START.position)
    np.testing.assert_array_equal(back.target.quaternion, START.quaternion)


@pytest.mark.parametrize("efforts", [None, np.arange(6.0)])
def test_arm_state_survives(efforts: Any) -> None:
    """Positions, velocities and efforts in their own fields: the contact rule stops the arm by efforts."""
    state = arm_state(
        5.0,
        joint_positions=np.arange(6) + 0.1,
        joint_velocities=np.arange(6) + 0.2,
        joint_efforts=efforts,
        linear_velocity=np.array([1.0, 2, 3]),
        angular_velocity=np.array([4.0, 5, 6]),
        gripper=0.4,
    )
    message = ours.ArmState(
        end_effector=conversion.pose_msg(state.pose),
        twist=conversion.twist_msg(state.linear_velocity, state.angular_velocity),
        joints=conversion.joint_state_msg(("a", "b", "c", "d", "e", "f"), state),
        gripper=state.gripper,
    )
    message.header.stamp = conversion.time_msg(state.stamp)
    back = conversion.arm_state(message)
    assert back.gripper == 0.4
    for name in ("joint_positions", "joint_velocities", "linear_velocity", "angular_velocity"):
        np.testing.assert_array_equal(getattr(back, name), getattr(state, name))
    if efforts is None:
        assert back.joint_efforts is None
    else:
        np.testing.assert_array_equal(back.joint_efforts, efforts)
    np.testing.assert_array_equal(back.pose.quaternion, START.quaternion)


def test_trajectory_keeps_its_order() -> None:
    trajectory = ArmTrajectory(("a", "b"), np.array([0.5, 1.5]), np.array([[1.0, 2], [3, 4]]), np.zeros((2, 2)))
    message = conversion.trajectory_msg(trajectory)
    assert list(message.joint_names) == ["a", "b"]
    assert [list(p.positions) for p in message.points] == [[1, 2], [3, 4]]
    assert [conversion.seconds(p.time_from_start) for p in message.points] == [0.5, 1.5]
    assert [list(p.velocities) for p in message.points] == [[0, 0], [0, 0]]
    assert conversion.seconds(message.header.stamp) == 0  # "at once"
    still = conversion.trajectory_msg(ArmTrajectory(("a",), np.array([1.0]), np.array([[1.0]])))
    assert not len(still.points[0].velocities)


def test_report_survives() -> None:
    made = conversion.report_msg(RuleReport("step", "too far", 0.1, 0.05, 0.05))
    assert (made.rule, made.detail, made.asked, made.allowed, made.limit) == ("step", "too far", 0.1, 0.05, 0.05)


def image(encoding: str, pixels: np.ndarray[Any, Any]) -> Image:
    made = Image(encoding=encoding, height=pixels.shape[0], width=pixels.shape[1], step=pixels.strides[0])
    made.data = pixels.tobytes()
    return made


def test_raw_and_compressed_images_become_rgb() -> None:
    import cv2

    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    message = image("bgr8", np.ascontiguousarray(rgb[..., ::-1]))
    np.testing.assert_array_equal(conversion.rgb(message), rgb)
    message = image("rgb8", rgb)
    assert np.shares_memory(conversion.rgb(message), np.frombuffer(message.data, np.uint8))
    png = CompressedImage(format="png", data=cv2.imencode(".png", rgb[..., ::-1])[1].tobytes())
    np.testing.assert_array_equal(conversion.rgb(png), rgb)


def test_without_cv_bridge_another_encoding_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    with pytest.raises(ImageError, match=r"'yuv422_yuy2' is not one of rgb8, .*cv-bridge.*or set the camera to rgb8"):
        conversion.rgb(image("yuv422_yuy2", np.zeros((2, 2, 2), np.uint8)))


class FakeBridge:
    """What cv_bridge does: an array in the encoding asked for, or CvBridgeError."""

    def imgmsg_to_cv2(self, message: Image, desired_encoding: str) -> Any:
        if message.encoding == "32FC1":
            raise FakeBridgeError("[32FC1] is not a color format. but [rgb8] is.")
        assert desired_encoding == "rgb8"
        return np.full((message.height, message.width, 3), 7, np.uint8)


class FakeBridgeError(TypeError):
    """cv_bridge's CvBridgeError is a TypeError."""


@pytest.fixture
def cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for cv_bridge, which is not on PyPI; where it is installed, it is used."""
    try:
        import cv_bridge
    except ImportError:
        cv_bridge = ModuleType("cv_bridge")
        cv_bridge.CvBridge, cv_bridge.CvBridgeError = FakeBridge, FakeBridgeError
        monkeypatch.setitem(sys.modules, "cv_bridge", cv_bridge)


@pytest.mark.usefixtures("cv_bridge")
def test_cv_bridge_does_other_encodings() -> None:
    decoded = conversion.rgb(image("bgr16", np.full((2, 4, 3), 7 * 257, np.uint16)))
    np.testing.assert_array_equal(decoded, np.full((2, 4, 3), 7))


@pytest.mark.usefixtures("cv_bridge")
def test_what_cv_bridge_cannot_do_is_an_image_error() -> None:
    """Hazard: a depth image on the policy's topic ends the policy with cv_bridge's own exception."""
    with pytest.raises(ImageError, match="'32FC1' can't be turned into RGB"):
        conversion.rgb(image("32FC1", np.zeros((2, 2), np.float32)))
