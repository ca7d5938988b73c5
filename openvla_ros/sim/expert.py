"""A scripted expert for the blocks scene: what to do next, from nothing but what is to be seen now.

It remembers nothing, so that a push, a slip or somebody else's actions never mislead it: from wherever it finds arm and
blocks it goes on. For the same reason its answers can be learned from single images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from openvla_ros.sim.tasks import BLOCK_HALF, PLATE_TOP, Task
from openvla_ros.types import Action, Array, Pose

GAIN = 0.5  # share of the way that one action goes: soft, so that one action's delay costs an overshoot, no crash
MAX_STEP = 0.015  # [m]
MAX_TURN = 0.1  # [rad]

HOVER = 0.06  # [m] above a block: where it is approached, clear of its neighbours
CARRY = 0.075  # [m] height of the hand that takes a block over the others
LIFT = 0.10  # [m] height of the hand with a lifted block
STEEP = 1.5  # slope of the funnel that leads down to a block, or the plate
NEAR = 0.004  # [m] beside the block's middle, at the bottom of the funnel

GRASP = 0.010  # [m] beside and above the block's middle where the fingers close
CLOSED, OPENED = 0.85, 0.9  # gripper openings below and above which it counts as such
EMPTY = 0.5  # below this opening no block can be between the fingers; a block holds them at about 0.68
BETWEEN = 0.015  # [m] from the hand to the middle of a block that it holds
PLACED = 0.02  # [m] from the plate's middle where a block is let down
RELEASE = 0.004  # [m] above its rest where it is let go

DOWN = Rotation.from_matrix([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # gripper pointing down, fingers along y


@dataclass(frozen=True, slots=True)
class View:
    """What is to be seen: poses in the base frame, the gripper's opening 0..1, blocks by colour."""

    hand: Pose
    opening: float
    blocks: Mapping[str, Pose]
    plate: Pose


def expert_action(view: View, task: Task) -> Action:
    """The next action towards the task. Its translation is at most MAX_STEP, its rotation at most MAX_TURN."""
    block = view.blocks[task.colour]
    if task.verb == "put" and _lies_on_plate(view, block):
        return _leave(view)
    if _is_held(view, block):
        return _lift(view) if task.verb == "lift" else _carry(view, block)
    return _fetch(view, block)


def _is_held(view: View, block: Pose) -> bool:
    sideways, above = _offset(view.hand, block)
    return EMPTY < view.opening < CLOSED and np.hypot(*sideways) < BETWEEN and abs(above) < BETWEEN


def _lies_on_plate(view: View, block: Pose) -> bool:
    away = np.hypot(*(view.plate.position - block.position)[:2])
    return bool(away < PLACED + 0.01 and abs(_above_plate(view, block)) < RELEASE)


def _above_plate(view: View, block: Pose) -> float:
    """[m] of a block's underside above the plate."""
    return float(block.position[2] - BLOCK_HALF - view.plate.position[2] - PLATE_TOP)


def _fetch(view: View, block: Pose) -> Action:
    """To the block, down a funnel over it; there the fingers close. They turn a block that lies askew."""
    sideways, above = _offset(view.hand, block)
    away = float(np.hypot(*sideways))
    if away < GRASP and abs(above) < GRASP:
        return _action(view.hand, np.zeros(3), 0.0)
    height = np.clip(STEEP * (away + 0.05 * abs(_yaw(view.hand)) - NEAR), 0.0, HOVER)
    if view.opening < OPENED:
        height = HOVER
    if above < BLOCK_HALF and away > BETWEEN:  # beside the block: up before sideways, or the fingers push it
        sideways = np.zeros(2)
    return _action(view.hand, np.array([*sideways, height - above]), 1.0)


def _lift(view: View) -> Action:
    return _action(view.hand, np.array([0.0, 0.0, LIFT - view.hand.position[2]]), 0.0)


def _carry(view: View, block: Pose) -> Action:
    """Up, over the plate and down a funnel onto it."""
    sideways = (view.plate.position - block.position)[:2]
    away = float(np.hypot(*sideways))
    z = float(view.hand.position[2])
    height = np.clip(STEEP * (away - PLACED / 2), 0.0, CARRY - z + _above_plate(view, block))
    clearance = np.clip((z - 0.03) / 0.03, 0.0, 1.0) if away > PLACED else 1.0
    up = height - _above_plate(view, block) + RELEASE / 4
    return _action(view.hand, np.array([*(clearance * sideways), up]), 0.0)


def _leave(view: View) -> Action:
    """Let go, then up."""
    up = LIFT - view.hand.position[2] if view.opening > OPENED else 0.0
    return _action(view.hand, np.array([0.0, 0.0, up]), 1.0)


def _action(hand: Pose, way: Array, gripper: float) -> Action:
    """A share of a way (3,) [m] and of the turn to DOWN."""
    turn = (DOWN * hand.rotation.inv()).as_rotvec()
    rotation = Rotation.from_rotvec(_at_most(GAIN * turn, MAX_TURN)).as_euler("xyz")
    return Action(_at_most(GAIN * way, MAX_STEP), rotation, gripper)


def _at_most(vector: Array, length: float) -> Array:
    norm = float(np.linalg.norm(vector))
    return vector if norm <= length else vector * (length / norm)


def _offset(hand: Pose, block: Pose) -> tuple[Array, float]:
    """((2,) from the hand to the block's middle, height of the hand above it) [m]."""
    way = block.position - hand.position
    return way[:2], float(-way[2])


def _yaw(hand: Pose) -> float:
    """[rad] that the fingers' axis is turned from y about the vertical."""
    x, y, _ = hand.rotation.apply([0.0, 1.0, 0.0])
    return float(np.arctan2(-x, y))
