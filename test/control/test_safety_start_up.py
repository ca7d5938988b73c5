"""The filter does not start with a configuration that contradicts its arm, and says which parameter it is."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mujoco")

from safety_arm import config, parts

from openvla_ros.errors import ConfigError
from openvla_ros.robots.arm_model import ArmModel

ROBOT, MODEL, _ = parts("wx250s")
START = ROBOT.pose("start")


def check(q: Any = START, **sections: Any) -> None:
    config(**sections).check_robot(arm_model=MODEL, start_joints=np.array(q))


@pytest.mark.parametrize("name", ["wx250s", "panda", "fr3"])
def test_every_robots_start_pose_is_fine(name: str) -> None:
    robot, model, _ = parts(name)
    limits = robot.cartesian_limits
    sections = {} if name == "wx250s" else {"collision": {"table_z_m": -0.03}}
    config(name, **sections).check_robot(
        arm_model=model,
        start_joints=robot.pose("start"),
        speed_m_s=limits.max_linear,
        speed_rad_s=limits.max_angular,
        max_efforts_n_m=tuple(j.max_effort for j in robot.joints),
    )


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"workspace": {"upper_m": (0.45, 0.25, 0.2)}}, "workspace.lower_m/upper_m: the start pose's z 0.260"),
        (
            {"workspace": {"rotation_lower_rad": (-1, -0.1, -1)}},
            "rotation_lower_rad/rotation_upper_rad: the start pose",
        ),
        ({"workspace": {"reference_quaternion": (0, 0, 0, 1)}}, "turned 1.30 rad about y"),
        ({"workspace": {"upper_m": (0.45, 2.5, 0.3)}}, "workspace.upper_m: y of"),
        ({"workspace": {"lower_m": (-9, -0.2, -0.01)}}, "workspace.lower_m: x of"),
        ({"workspace": {"lower_m": (0.6, 0.5, 0.5), "upper_m": (0.7, 0.7, 0.7)}}, "the whole box lies beyond"),
        ({"keep_out": [{"name": "post", "lower_m": (0.2, -0.1, 0.2), "upper_m": (0.4, 0, 0.4)}]}, "keep_out 'post'"),
        ({"joints": {"margin_rad": 0.5}, "q": [0, 0, 0, 0, -1.5, 0]}, "joints.margin_rad: wrist_angle starts at -1.5"),
        ({"q": [0, -0.3, 0.5, 0, 0.02, 0]}, "singularity.stop: the start pose is singular"),
        ({"q": ROBOT.pose("sleep")}, "collision.self_stop_m: shoulder_link and wrist_link"),
        ({"collision": {"table_z_m": 0.25}}, "collision.table_z_m: shoulder_link starts"),
    ],
)
def test_a_contradiction_is_refused_and_named(sections: dict[str, Any], field: str) -> None:
    """Hazard: a box for another robot, a table above the arm: it would be found out by the arm."""
    with pytest.raises(ConfigError, match=re.escape(field)):
        check(**sections)


def test_all_contradictions_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"workspace\.upper_m.*collision\.table_z_m"):
        check(workspace={"upper_m": (0.45, 2.5, 0.3)}, collision={"table_z_m": 0.25})


def test_joints_without_room_are_refused() -> None:
    """Hazard: margins that overlap; every joint position is then beyond both ends."""
    model = ArmModel(ROBOT)
    model.upper = model.lower + 1.5
    with pytest.raises(ConfigError, match=r"joints\.margin_rad: 0\.5 leaves waist"):
        config(joints={"margin_rad": 0.5}).check_robot(arm_model=model)
