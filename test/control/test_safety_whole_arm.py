"""Keep-outs, walls, held objects and link speed: beyond one scenario a rule, with both shipped arms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("mink")

from judged_arm import config
from safety_arm import ArmScene, parts, share
from safety_scene import codes

from openvla_ros.control.safety import SafetyConfig
from openvla_ros.control.safety.arm import JointPath, Posture
from openvla_ros.control.safety.motion import Context
from openvla_ros.control.safety.rules.link_speed import LinkSpeed
from openvla_ros.errors import ConfigError
from openvla_ros.types import Array

NAMES = ("wx250s", "panda")
NO_TABLE = {"table_height_m": -5.0}
CONTEXT = Context(now=0.0, arm=None)


def path_through(name: str, times: Any, positions: Array, velocities: Any = None) -> JointPath:
    """From rest unless velocities (k, n) are given."""
    postures = tuple(Posture(parts(name)[1], q, 0.03) for q in positions)
    velocities = np.zeros_like(positions) if velocities is None else velocities
    return JointPath(np.array(times), positions, velocities, postures, True, lambda: None)


def path_to(name: str, q: Array, offset: Array, duration: float) -> JointPath:
    return path_through(name, np.linspace(5.0, 5.0 + duration, 5), np.linspace(q, q + offset, 5))


def elbow_alone(name: str) -> tuple[Array, Array]:
    """A posture (n,) and a joint offset (n,) that moves the elbow; of the redundant arm, the end effector not at all.

    [rad], per metre of the fastest corner, so small that the motion is straight.
    """
    robot, model, kinematics = parts(name)
    q = robot.pose("start")
    offset = np.linalg.svd(kinematics.jacobian(q))[2][6] if name == "panda" else np.eye(6)[1]
    size = np.linalg.norm(np.diff(model.corners(np.stack([q, q + 1e-4 * offset])), axis=1), axis=2).max() / 1e-4
    return q, offset / size


@pytest.mark.parametrize("name", NAMES)
def test_an_elbow_at_0_6_m_s_is_refused_whatever_the_end_effector_does(name: str) -> None:
    """Hazard: the elbow hits somebody while the end effector is within its limit, or still."""
    q, offset = elbow_alone(name)
    rule = LinkSpeed(SafetyConfig(), parts(name)[1])
    objection = rule(path_to(name, q, 0.06 * offset, 0.1), CONTEXT)
    assert objection is not None
    assert objection.measure(path_to(name, q, 0.06 * offset, 0.1)) == pytest.approx(0.6, rel=0.05)
    assert rule(path_to(name, q, 0.05 * offset, 0.1), CONTEXT) is None
    ends = [parts(name)[1].forward(q + share * offset).position for share in (0.0, 0.01)]
    assert name != "panda" or np.linalg.norm(ends[1] - ends[0]) < 2e-4


@pytest.mark.parametrize("name", NAMES)
def test_full_speed_in_every_direction_meets_no_link_speed_limit(name: str) -> None:
    """Hazard: a limit for emergencies that slows everyday work down."""
    arm = ArmScene(name, collision=NO_TABLE)
    for axis, sign in [(i, s) for i in range(3) for s in (1, -1, -1, 1)]:
        assert "link_speed" not in codes(arm.step(0.05 * sign * np.eye(3)[axis]))


def test_the_fastest_of_unevenly_spaced_steps_counts() -> None:
    """Hazard: the mean over a path hides a burst in it."""
    q, offset = elbow_alone("wx250s")
    model = parts("wx250s")[1]
    path = path_through("wx250s", [5.0, 5.1, 5.2], np.array([q, q + 0.05 * offset, q + 0.06 * offset]))
    objection = LinkSpeed(SafetyConfig(motion={"max_link_speed_m_s": 0.4}), model)(path, CONTEXT)
    assert objection is not None
    assert objection.measure(path) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_the_speed_at_a_point_of_the_path_counts(name: str) -> None:
    """Hazard: a short step is a ramp up and a ramp down; in between it is twice as fast as on average."""
    q, offset = elbow_alone(name)
    positions, velocities = np.array([q, q + 0.02 * offset, q + 0.04 * offset]), np.array([0, 0.6, 0])[:, None] * offset
    rule = LinkSpeed(SafetyConfig(), parts(name)[1])
    path = path_through(name, [5.0, 5.1, 5.2], positions, velocities)
    objection = rule(path, CONTEXT)
    assert objection is not None
    assert objection.measure(path) == pytest.approx(0.6, rel=0.05)
    assert rule(path_through(name, [5.0, 5.1, 5.2], positions, 0.8 * velocities), CONTEXT) is None


def around(name: str, half: Any, offset: Any = (0, 0, 0)) -> dict[str, Any]:
    """A box around the right finger at the start pose."""
    robot, model, _ = parts(name)
    least, greatest = (e[-1] for e in model.extents(robot.pose("start")))
    lower, upper = (least + greatest) / 2 + offset - half, (least + greatest) / 2 + offset + half
    return {"name": "post", "lower_m": tuple(lower.tolist()), "upper_m": tuple(upper.tolist())}


@pytest.mark.parametrize("name", NAMES)
def test_from_inside_a_keep_out_the_arm_may_come_out_and_go_no_deeper(name: str) -> None:
    """Hazard: an arm that was switched on inside a box can never be moved again, or is pushed further in."""
    box = around(name, np.array([0.2, 0.2, 0.03]), (0, 0, -0.03))  # the fingers stand in its lid
    bounds = ((box["lower_m"], box["upper_m"]),)
    deeper, out = (ArmScene(name, collision=NO_TABLE, keep_out=[box]) for _ in range(2))
    among = deeper.model.among(bounds)
    start = among.obstacle_distances(deeper.q, 0.1)
    assert start.min() < -0.005
    for _ in range(3):
        deeper.step((0, 0, -0.01))
    deepest = among.obstacle_distances(deeper.q, 0.1)
    assert (deepest[start < 0] >= start[start < 0] - 5e-4).all()
    for _ in range(12):
        out.step((0, 0, 0.01))
    assert among.obstacle_distances(out.q, 0.1).min() > 0.01
    assert not deeper.refusals + out.refusals


@pytest.mark.parametrize("name", NAMES)
def test_a_thin_wall_is_not_jumped_over(name: str) -> None:
    """Hazard: a path is judged at a few places, and a sheet of 1 mm lies between two of them."""
    y = float(parts(name)[1].extents(parts(name)[0].pose("start"))[1][:, 1].max()) + 0.035
    wall = {"name": "sheet", "lower_m": (-1.0, y, -0.1), "upper_m": (1.0, y + 0.001, 1.5)}
    arm = ArmScene(name, collision=NO_TABLE, keep_out=[wall])
    for _ in range(10):
        arm.step((0, 0.05, 0))
        assert arm.model.extents(arm.q)[1][:, 1].max() <= y - 0.01 + 2e-4
    assert arm.model.extents(arm.q)[1][:, 1].max() > y - 0.02


@pytest.mark.parametrize("name", NAMES)
def test_a_held_object_is_kept_off_the_table_and_out_of_keep_outs(name: str) -> None:
    """Hazard: the fingers stop above the table, what they hold has been pushed into it."""
    lows, sides = {}, {}
    for ahead, aside in ((0.0, 0.0), (0.06, 0.08)):
        held = {"held_object": {"ahead_m": ahead, "aside_m": aside}}
        table = 0.0 if name == "panda" else -0.02
        arm = ArmScene(name, collision={"table_height_m": table}, **held)
        for _ in range(35):
            arm.step((0, 0, -0.02))
        lows[ahead] = float(arm.model.heights(arm.q)[-1]) - table
        assert arm.config.place(arm.model).heights(arm.q).min() >= table + 0.003 - 2e-4
        box = around(name, 0.02, (0, 0.2, -0.02))
        arm = ArmScene(name, collision=NO_TABLE, keep_out=[box], **held)
        for _ in range(15):
            arm.step((0, 0.02, 0))
        sides[ahead] = box["lower_m"][1] - float(arm.model.forward(arm.q).position[1])
        assert arm.config.place(arm.model).obstacle_distances(arm.q, 0.1).min() >= 0.01 - 2e-4
    # With Bridge's tilt the object's rim is lower than its axis.
    assert lows[0.06] - lows[0.0] == pytest.approx(0.077 if name == "wx250s" else 0.06, abs=0.005)
    assert sides[0.06] > sides[0.0] + 0.01


def test_a_keep_out_is_taken_up_while_stopped() -> None:
    """Hazard: the box that was just added is not looked at."""
    arm = ArmScene(collision=NO_TABLE)
    arm.step((0, 0.02, 0))
    box = around("wx250s", 0.02, (0, 0.15, 0))
    changed = config(collision=NO_TABLE, keep_out=[box])
    with pytest.raises(ConfigError, match="keep_out cannot change while the arm is moving"):
        arm.filter.update(changed)
    arm._pass_on(arm.filter.stop("test", arm.now))
    arm.tick(0.3)
    arm.filter.update(changed)
    arm.tick(0.1)
    assert arm.filter.reset(arm.now)[0]
    assert arm.filter.resume(arm.now)[0]
    fired: set[str] = set()
    for _ in range(15):
        fired |= codes(arm.step((0, 0.02, 0)))
    assert "keep_out_arm" in fired


def test_without_keep_outs_no_distance_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: everybody pays for what few use."""
    arm = ArmScene()
    monkeypatch.setattr(type(arm.model), "obstacle_distances", None)
    assert share(arm.step((0, 0.02, 0))) == pytest.approx(0.4)
