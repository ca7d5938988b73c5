"""The scripted expert answers from what is to be seen alone, softly, and goes on from wherever it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from openvla_ros.robots.description import load_robot
from openvla_ros.sim.expert import DOWN, MAX_STEP, MAX_TURN, View, expert_action
from openvla_ros.sim.tasks import COLOURS, PLATE_TOP, TASKS, task
from openvla_ros.sim.world import World
from openvla_ros.types import Pose

BLOCK = np.array([0.30, 0.05, -0.005])
PLATE = Pose(np.array([0.25, -0.10, -0.02]), np.array([0.0, 0.0, 0.0, 1.0]))
LIFT, PUT = task("lift the green block"), task("put the green block on the plate")


def flat(position, yaw: float = 0.0) -> Pose:
    return Pose.from_rotation(np.array(position, dtype=float), Rotation.from_euler("z", yaw))


def hand(position, yaw: float = 0.0) -> Pose:
    return Pose.from_rotation(np.array(position, dtype=float), Rotation.from_euler("z", yaw) * DOWN)


def shifted(position, x: float = 0.0, y: float = 0.0, z: float = 0.0):
    return position + np.array([x, y, z])


def view(at, *, yaw: float = 0.0, opening: float = 1.0, block=BLOCK, block_yaw: float = 0.0) -> View:
    blocks = {"red": flat([0.22, 0.14, -0.005]), "green": flat(block, block_yaw), "blue": flat([0.35, -0.02, -0.005])}
    return View(hand(at, yaw), opening, blocks, PLATE)


def test_plate_top_is_the_scenes():
    """The expert lets a block go where the scene's plate ends, not in the air above or pressed into it."""
    world = World("blocks", load_robot("wx250s"))
    geom = world.model.body("plate").geomadr[0]
    assert world.model.geom_pos[geom][2] + world.model.geom_size[geom][1] == pytest.approx(PLATE_TOP)


coordinates = st.tuples(st.floats(0.1, 0.45), st.floats(-0.2, 0.25), st.floats(-0.02, 0.3))
angles = st.tuples(*[st.floats(-3.1, 3.1)] * 3)


@settings(max_examples=150, deadline=None)
@given(coordinates, angles, st.floats(0, 1), coordinates, angles, st.sampled_from(sorted(TASKS)))
def test_every_answer_is_soft_and_finite(at, turned, opening, place, lying, instruction):
    """Wherever arm and blocks are, also tipped or under the table's top: no step is more than 15 mm, nothing is NaN."""
    around = Pose.from_rotation(np.array(at), Rotation.from_euler("xyz", turned))
    block = Pose.from_rotation(np.array(place), Rotation.from_euler("xyz", lying))
    action = expert_action(View(around, opening, dict.fromkeys(COLOURS, block), PLATE), TASKS[instruction])
    assert np.isfinite(action.to_array()).all()
    assert np.linalg.norm(action.translation) <= MAX_STEP + 1e-12
    assert np.linalg.norm(Rotation.from_euler("xyz", action.rotation).as_rotvec()) <= MAX_TURN + 1e-9
    assert action.gripper in (0.0, 1.0)


def test_only_the_named_block_counts():
    """A label that depends on another block teaches a policy to look at the wrong one."""
    here = view([0.3, -0.09, 0.2])
    moved = replace(here, blocks={**here.blocks, "red": flat([0.4, 0.2, 0.1]), "blue": flat([0.2, -0.1, 0.0], 0.5)})
    np.testing.assert_array_equal(expert_action(here, LIFT).to_array(), expert_action(moved, LIFT).to_array())


def test_the_hand_stays_square_however_the_block_lies():
    """A block of seven pixels does not show how it is turned: a label that depends on it can't be learned."""
    there = view([*BLOCK[:2], 0.2], yaw=0.2)
    for _ in range(60):
        turn = Rotation.from_euler("xyz", expert_action(there, LIFT).rotation)
        there = replace(there, hand=Pose.from_rotation(np.array([*BLOCK[:2], 0.2]), turn * there.hand.rotation))
    assert (there.hand.rotation * DOWN.inv()).magnitude() < 1e-3
    for at in (BLOCK, [*BLOCK[:2], 0.1]):
        square, askew = (expert_action(view(at, block_yaw=yaw), LIFT).to_array() for yaw in (0.0, 0.5))
        np.testing.assert_array_equal(square, askew)


def test_it_closes_only_around_the_block():
    assert expert_action(view(BLOCK), LIFT).gripper == 0.0
    assert expert_action(view(BLOCK), LIFT).translation.tolist() == [0, 0, 0], "and holds still meanwhile"
    for beside in ({"x": 0.015}, {"y": -0.015}, {"z": 0.015}):
        assert expert_action(view(shifted(BLOCK, **beside)), LIFT).gripper == 1.0


def test_it_lifts_what_it_holds_and_fetches_what_it_dropped():
    held = view([*BLOCK[:2], 0.05], opening=0.68, block=[*BLOCK[:2], 0.05])
    up = expert_action(held, LIFT)
    assert up.gripper == 0.0
    assert up.translation[2] > 0.01
    dropped = view([*BLOCK[:2], 0.05], opening=0.0)
    assert expert_action(dropped, LIFT).gripper == 1.0
    assert expert_action(replace(dropped, opening=1.0), LIFT).translation[2] < -0.01


def test_beside_a_block_it_goes_up_before_it_goes_sideways():
    """Fingers that come from the side push the block away, again and again."""
    action = expert_action(view(shifted(BLOCK, x=0.03)), LIFT)
    np.testing.assert_allclose(action.translation[:2], 0.0)
    assert action.translation[2] > 0.005


def test_it_lets_go_over_the_plate_only():
    rest = shifted(PLATE.position, z=PLATE_TOP + 0.016)
    on_it = view(rest, opening=0.68, block=rest)
    assert expert_action(on_it, PUT).gripper == 1.0
    assert expert_action(on_it, LIFT).gripper == 0.0, "the other task takes it up from there"
    for away in ({"z": 0.03}, {"x": 0.04}, {"y": -0.2, "z": 0.02}):
        held = view(shifted(rest, **away), opening=0.68, block=shifted(rest, **away))
        assert expert_action(held, PUT).gripper == 0.0


def test_low_over_the_table_a_held_block_is_not_dragged_through_others():
    held = view([*BLOCK[:2], 0.0], opening=0.68, block=[*BLOCK[:2], 0.0])
    action = expert_action(held, PUT)
    np.testing.assert_allclose(action.translation[:2], 0.0)
    assert action.translation[2] > 0.01
