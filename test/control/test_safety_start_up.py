"""The filter does not start with a configuration that contradicts its arm, and says which parameter it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mujoco")

from mutants import generators, without_yield
from safety_arm import config, parts

from openvla_ros.control.safety import start_up
from openvla_ros.errors import ConfigError
from openvla_ros.robots.arm_model import ArmModel

ROBOT, MODEL, _ = parts("wx250s")
START = ROBOT.pose("start")


def check(q: Any = START, **sections: Any) -> None:
    start_up.check_robot(config(**sections), arm_model=MODEL, start_joints=np.array(q))


@pytest.mark.parametrize("name", ["wx250s", "panda", "fr3"])
def test_every_robots_start_pose_is_fine(name: str) -> None:
    robot, model, _ = parts(name)
    limits = robot.cartesian_limits
    sections = {} if name == "wx250s" else {"collision": {"table_height_m": -0.03}}
    start_up.check_robot(
        config(name, **sections),
        arm_model=model,
        start_joints=robot.pose("start"),
        speed_m_s=limits.max_linear,
        speed_rad_s=limits.max_angular,
        max_efforts_n_m=tuple(j.max_effort for j in robot.joints),
    )


POST = {"name": "post", "lower_m": (0.05, -0.1, 0.3), "upper_m": (0.15, 0.1, 0.5)}  # where the forearm is
CASES = (
    ({"workspace": {"upper_m": (0.45, 0.25, 0.2)}}, "workspace.lower_m/upper_m: the start pose's z 0.260"),
    (
        {"workspace": {"rotation_lower_rad": (-1, -0.1, -1)}},
        "rotation_lower_rad/rotation_upper_rad: the start pose",
    ),
    ({"workspace": {"reference_quaternion": (0, 0, 0, 1)}}, "turned 1.30 rad about y"),
    ({"workspace": {"upper_m": (0.45, 2.5, 0.3)}}, "workspace.upper_m: y of"),
    ({"workspace": {"lower_m": (-9, -0.2, -0.01)}}, "workspace.lower_m: x of"),
    ({"workspace": {"lower_m": (0.6, 0.5, 0.5), "upper_m": (0.7, 0.7, 0.7)}}, "the whole box lies beyond"),
    ({"keep_out": [{"name": "post", "lower_m": (0.2, -0.1, 0.2), "upper_m": (0.4, 0, 0.4)}]}, "'post': the start"),
    ({"keep_out": [POST]}, "keep_out 'post': forearm_link starts"),
    ({"whole_arm": {"upper_m": (1.0, 1.0, 0.35)}}, "whole_arm.upper_m: wrist_link starts"),
    ({"whole_arm": {"lower_m": (-1.0, -0.12, -1.0)}}, "whole_arm.lower_m: gripper_link starts"),
    ({"held_object": {"ahead_m": 0.3}}, "collision.table_height_m: held object starts"),
    ({"joints": {"margin_rad": 0.5}, "q": [0, 0, 0, 0, -1.5, 0]}, "joints.margin_rad: wrist_angle starts at -1.5"),
    ({"q": [0, -0.3, 0.5, 0, 0.02, 0]}, "singularity.stop: the start pose is singular"),
    ({"q": ROBOT.pose("sleep")}, "collision.self_stop_m: shoulder_link and wrist_link"),
    ({"collision": {"table_height_m": 0.25}}, "collision.table_height_m: shoulder_link starts"),
)
EFFORTS = {"contact": {"max_efforts_n_m": (2.0,) * 6}}
OWN = (
    ({"speed_m_s": 0.1}, "motion.max_speed_m_s"),
    ({"speed_rad_s": 1.0}, "motion.max_speed_rad_s"),
    ({"max_efforts_n_m": (10.0,) * 7}, "contact.max_efforts_n_m: 6 limits for the arm's 7 joints"),
    ({"max_efforts_n_m": (10.0,) * 5 + (1.0,)}, "contact.max_efforts_n_m"),
)


@pytest.mark.parametrize(("sections", "field"), CASES)
def test_a_contradiction_is_refused_and_named(sections: dict[str, Any], field: str) -> None:
    """Hazard: a box for another robot, a table above the arm: it would be found out by the arm."""
    with pytest.raises(ConfigError, match=re.escape(field)):
        check(**sections)


@pytest.mark.parametrize(("facts", "field"), OWN)
def test_limits_above_the_arms_own_are_refused(facts: dict[str, Any], field: str) -> None:
    """Hazard: a limit that never acts, because the arm's own is below it."""
    with pytest.raises(ConfigError, match=re.escape(field)):
        start_up.check_robot(config(**EFFORTS), **facts)


def no_room() -> None:
    """Margins that overlap; every joint position is then beyond both ends."""
    model = ArmModel(ROBOT)
    model.upper = model.lower + 1.5
    start_up.check_robot(config(joints={"margin_rad": 0.5}), arm_model=model)


def is_told(field: str, ask: Callable[..., None], **arguments: Any) -> bool:
    try:
        ask(**arguments)
    except ConfigError as error:
        return field in str(error)
    return False


@pytest.mark.parametrize(("name", "number"), generators(start_up))
def test_no_check_can_be_left_out_unnoticed(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: a check at the start that is there and does nothing."""
    monkeypatch.setattr(start_up, name, without_yield(start_up, name, number))
    assert not (
        all(is_told(field, check, **sections) for sections, field in CASES)
        and all(is_told(field, partial(start_up.check_robot, config(**EFFORTS)), **facts) for facts, field in OWN)
        and is_told("joints.margin_rad: 0.5 leaves waist", no_room)
    )


def test_all_contradictions_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"workspace\.upper_m.*collision\.table_height_m"):
        check(workspace={"upper_m": (0.45, 2.5, 0.3)}, collision={"table_height_m": 0.25})


def test_joints_without_room_are_refused() -> None:
    """Hazard: an arm that is beyond both ends of a joint wherever it is, and never moves."""
    with pytest.raises(ConfigError, match=r"joints\.margin_rad: 0\.5 leaves waist"):
        no_room()
