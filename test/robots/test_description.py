"""The arm's description: shipped values, and one clear error for each wrong one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from openvla_ros.drive.interfaces import load_interface
from openvla_ros.errors import ConfigError
from openvla_ros.paths import config_file
from openvla_ros.robots.description import load_robot

ROBOTS = sorted(p.stem for p in config_file("robots").glob("*.yaml"))


@pytest.fixture
def values() -> dict:
    return yaml.safe_load(config_file("robots", "wx250s.yaml").read_text())


def load(values: dict, tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_robot(path)


def test_wx250s_limits_are_the_manufacturers():
    """A public copy of this arm's model has other elbow and wrist limits: pin the published ones."""
    robot = load_robot("wx250s")
    assert robot.joint_names == ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
    np.testing.assert_allclose(np.degrees(robot.lower), [-180, -108, -123, -180, -100, -180], atol=1e-3)
    np.testing.assert_allclose(np.degrees(robot.upper), [180, 114, 92, 180, 123, 180], atol=1e-3)
    np.testing.assert_allclose(robot.max_velocity, np.pi)
    assert [j.max_effort for j in robot.joints] == [10, 20, 15, 2, 5, 1]


@pytest.mark.parametrize("name", ROBOTS)
def test_every_shipped_robot_loads_and_its_interface_exists(name):
    robot = load_robot(name)
    assert robot.name == name
    assert load_interface(robot.interface.name).arm_trajectory


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda v: v["joints"][2].update(lower=2.0), "joints.2"),
        (lambda v: v["joints"][1].update(max_velocity=0.0), "joints.1.max_velocity"),
        (lambda v: v["joints"][1].update(upper=float("nan")), "joints.1.upper"),
        (lambda v: v["joints"].pop(), "poses"),
        (lambda v: v["poses"].update(start=[0, 0, 3.0, 0, 0, 0]), "elbow"),
        (lambda v: v["poses"].pop("start"), "start"),
        (lambda v: v["workspace"].update(lower=[0.5, -0.2, 0.0]), "workspace"),
        (lambda v: v["gripper"].update(command_joints=["thumb"]), "thumb"),
        (lambda v: v["action"].update(frame="tool"), "action.frame"),
        (lambda v: v.update(model="robots/none.xml"), "model"),
        (lambda v: v.update(colour="black"), "colour"),
        (lambda v: v["joints"][0].update(name="elbow"), "repeat"),
    ],
)
def test_a_wrong_value_is_named(values, tmp_path, change, field):
    """A typo in a limit must stop the start, not move an arm."""
    change(values)
    with pytest.raises(ConfigError, match=field):
        load(values, tmp_path)


def test_an_unknown_robot_lists_those_there_are():
    with pytest.raises(ConfigError, match="wx250s"):
        load_robot("wx251")


def test_model_without_the_described_joint_is_refused(values, tmp_path):
    from openvla_ros.robots.model import robot_spec

    values["joints"][0]["name"] = "hip"
    with pytest.raises(ConfigError, match="'hip' is not in"):
        robot_spec(load(values, tmp_path))


def test_joints_in_another_order_than_the_model_are_refused(values, tmp_path):
    """Swapped joints with equal limits would pass every range check and send the arm elsewhere."""
    from openvla_ros.robots.kinematics import Kinematics

    values["joints"][0], values["joints"][5] = values["joints"][5], values["joints"][0]
    with pytest.raises(ConfigError, match="joints are"):
        Kinematics(load(values, tmp_path))


def test_gripper_mapping_is_1_open_for_both_fingers():
    """Datasets disagree on the gripper's sign: here 1 is open, and the right finger moves the other way."""
    gripper = load_robot("wx250s").gripper
    assert gripper.command(1.0).tolist() == [0.037]
    assert gripper.command(0.0).tolist() == [0.015]
    assert gripper.opening({"left_finger": 0.037, "right_finger": -0.037}) == pytest.approx(1.0)
    assert gripper.opening({"left_finger": 0.026, "right_finger": -0.026}) == pytest.approx(0.5)
    assert gripper.opening({"left_finger": 0.012, "right_finger": -0.012}) == 0.0


@pytest.mark.parametrize("opening", [float("nan"), -0.01, 1.01, float("inf")])
def test_gripper_refuses_what_is_not_0_to_1(opening):
    """A NaN passes through np.clip; it must not reach the gripper."""
    with pytest.raises(ValueError, match="opening"):
        load_robot("wx250s").gripper.command(opening)


def test_gripper_nan_measurement_stays_nan():
    assert np.isnan(load_robot("wx250s").gripper.opening({"left_finger": float("nan")}))


def test_gripper_motor_angle_grows_with_the_opening():
    gripper = load_robot("wx250s").gripper
    assert gripper.linkage is not None
    angles = [gripper.linkage.angle(x) for x in np.linspace(0.015, 0.037, 9)]
    assert (np.diff(angles) > 0).all()
    # slider-crank at a right angle: the finger stands at sqrt(arm^2 - horn^2)
    assert gripper.linkage.angle(np.sqrt(0.024**2 - 0.014**2)) == pytest.approx(0.0)


def test_require_names_every_difference():
    """A policy whose actions are absolute poses in the tool frame must not drive this arm."""
    robot = load_robot("wx250s")
    robot.require(robot.action)
    other = SimpleNamespace(frame="tool", kind="absolute_pose")
    with pytest.raises(ConfigError, match=r"frame is 'tool'.*kind is 'absolute_pose'"):
        robot.require(other)
