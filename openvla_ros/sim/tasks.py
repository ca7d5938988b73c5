"""Tasks of the blocks scene, judged from the simulator's own state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from openvla_ros.errors import ConfigError
from openvla_ros.sim.world import World

COLOURS = ("red", "green", "blue")
TABLE_HEIGHT = -0.02  # [m] of the table top in the base frame, as resource/scenes/blocks.xml has it
BLOCK_HALF = 0.015  # [m]
LIFTED = 0.05  # [m] that a block's underside must be above the table
PLATE_TOP = 0.008  # [m] of the plate's upper side above its origin
PLATE_RADIUS = 0.05  # [m] from the plate's middle that a block's middle may lie
UPRIGHT = np.cos(np.radians(30))


@dataclass(frozen=True, slots=True)
class Task:
    """An instruction for the policy, what it asks for, and the judgement whether the world now fulfils it."""

    instruction: str
    verb: Literal["lift", "put"]
    colour: str
    succeeded: Callable[[World], bool]


def grasped(world: World) -> frozenset[str]:
    """Colours of the blocks that more than one finger touches."""
    return frozenset(c for c in COLOURS if world.fingers_touching(f"{c}_block") >= 2)


def lifted(world: World, colour: str) -> bool:
    """The block is held by the fingers, well above the table."""
    name = f"{colour}_block"
    height = world.pose(name).position[2] - BLOCK_HALF - TABLE_HEIGHT
    return bool(height > LIFTED and world.fingers_touching(name) >= 2)


def on_plate(world: World, colour: str) -> bool:
    """The block rests on the upright plate, within its rim, and no finger touches it."""
    name = f"{colour}_block"
    if not world.touching(name, "plate") or world.fingers_touching(name):
        return False
    plate = world.pose("plate")
    offset = plate.rotation.inv().apply(world.pose(name).position - plate.position)
    upright = plate.rotation.apply([0.0, 0.0, 1.0])[2] > UPRIGHT
    within = np.hypot(*offset[:2]) < PLATE_RADIUS
    return bool(upright and within)


def fulfilled(world: World) -> list[str]:
    """The instructions that the world fulfils now."""
    return [text for text, task in TASKS.items() if task.succeeded(world)]


def _tasks() -> dict[str, Task]:
    lifts = [Task(f"lift the {c} block", "lift", c, partial(lifted, colour=c)) for c in COLOURS]
    places = [Task(f"put the {c} block on the plate", "put", c, partial(on_plate, colour=c)) for c in COLOURS]
    return {task.instruction: task for task in (*lifts, *places)}


TASKS = _tasks()


def task(instruction: str) -> Task:
    """The task of an instruction. Raises ConfigError listing those there are."""
    if instruction not in TASKS:
        raise ConfigError(f"no task {instruction!r} in the blocks scene; there are {list(TASKS)}")
    return TASKS[instruction]
