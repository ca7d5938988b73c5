"""Moments of the six tasks that are arranged, not acted: any number, the rare ones as often as wanted.

The expert is a pure function of what is to be seen, so that it can say of any of them what to do next.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from openvla_ros.errors import OpenVLAError
from openvla_ros.robots.kinematics import Kinematics
from openvla_ros.sim.expert import DOWN, HOVER, NEAR, STEEP, View
from openvla_ros.sim.tasks import BLOCK_HALF, COLOURS, PLATE_TOP, TABLE_HEIGHT
from openvla_ros.sim.world import MAX_YAW, PLACE_LOWER, PLACE_UPPER, World
from openvla_ros.types import Array, Pose

SITUATIONS = {"approach": 0.50, "hold": 0.34, "placed": 0.12, "start": 0.04}
HAND_LOWER, HAND_UPPER = np.array([0.13, -0.22, -0.012]), np.array([0.45, 0.26, 0.30])  # [m]
HOLDING = 0.68  # opening of a gripper that holds a block
ON_PLATE = TABLE_HEIGHT + PLATE_TOP + BLOCK_HALF  # [m] height of the middle of a block on the plate
QUARTER = np.pi / 2
APART = 0.035  # [m] between the middles of two blocks, at least


class Arranger:
    """Puts a world into one moment after another. ``rng`` alone decides which."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self._world = world
        self._kinematics = Kinematics(world.robot)
        self._rng = rng

    def __call__(self) -> View:
        """The next moment; the world shows it."""
        while True:
            view = self._try()
            if view is not None:
                return view

    def _try(self) -> View | None:
        rng = self._rng
        blocks, plate = self._objects()
        colour = COLOURS[rng.integers(len(COLOURS))]
        situation = str(rng.choice(list(SITUATIONS), p=list(SITUATIONS.values())))
        held = colour if situation == "hold" else None
        if situation == "placed":
            blocks[colour] = _upright([*_near(rng, plate, 0.010), ON_PLATE], _yaw(blocks[colour]))
        position, yaw, opening = getattr(self, f"_{situation}")(blocks[colour], plate)
        hand = self._hand(position, yaw)
        if hand is None:
            return None
        pose, q = hand
        if held is not None:
            blocks[held] = self._between_fingers(pose)
        view = View(pose, opening, blocks, plate)
        if not _possible(view, colour, held):
            return None
        objects = {f"{name}_block": block for name, block in blocks.items()}
        self._world.arrange(q, opening, {**objects, "plate": plate})
        return view

    def _objects(self) -> tuple[dict[str, Pose], Pose]:
        """Blocks and plate, some elsewhere than at the beginning of an episode: pushed, turned, on the plate."""
        rng, world = self._rng, self._world
        world.reset(int(rng.integers(2**62)))
        plate = world.pose("plate")
        if rng.random() < 0.3:
            plate = _upright([*_near(rng, plate, 0.02), plate.position[2]], rng.uniform(-np.pi, np.pi))
        blocks = {}
        for name, block in world.blocks().items():
            where, z = block.position[:2], block.position[2]
            kind = rng.random()
            if kind < 0.08:
                where, z = _near(rng, plate, 0.015), ON_PLATE
            elif kind < 0.2:
                where = _near(rng, block, 0.03)
            spread = np.pi if rng.random() < 0.2 else MAX_YAW
            blocks[name] = _upright([*where, z], rng.uniform(-spread, spread))
        return blocks, plate

    # ---- situations: ((3,) position of the hand, its yaw, opening)

    def _approach(self, block: Pose, plate: Pose) -> tuple[Array, float, float]:
        """About the funnel over a block, the narrow end as often as the wide one."""
        rng = self._rng
        offset = rng.normal(0.0, rng.choice([0.003, 0.008, 0.02, 0.06, 0.12]), 2)
        height = np.clip(STEEP * (np.hypot(*offset) - NEAR), 0.0, HOVER) + rng.normal(
            0.0, rng.choice([0.002, 0.006, 0.02])
        )
        if rng.random() < 0.25:
            height = rng.uniform(0.0, 0.2)
        opening = 1.0 if rng.random() < 0.85 else rng.uniform(0.0, 1.0)
        return block.position + np.array([*offset, height]), self._turned(), opening

    def _hold(self, block: Pose, plate: Pose) -> tuple[Array, float, float]:
        """A block between the fingers: being lifted, carried, let down."""
        rng = self._rng
        kind = rng.random()
        if kind < 0.3:
            position = np.array([*block.position[:2], rng.uniform(block.position[2], 0.12)])
        elif kind < 0.75:
            offset = rng.normal(0.0, rng.choice([0.01, 0.03, 0.06]), 2)
            height = np.clip(STEEP * (np.hypot(*offset) - 0.01), 0.0, 0.08) + rng.normal(
                0.0, rng.choice([0.003, 0.015])
            )
            position = np.array([*(plate.position[:2] + offset), max(ON_PLATE + height, 0.0)])
        else:
            position = np.array([*rng.uniform(PLACE_LOWER - 0.03, PLACE_UPPER + 0.05), rng.uniform(0.0, 0.13)])
        opening = float(np.clip(rng.normal(HOLDING, 0.02), 0.0, 1.0))
        return position, self._turned(), opening

    def _placed(self, block: Pose, plate: Pose) -> tuple[Array, float, float]:
        """Over a block that lies on the plate, letting go or leaving."""
        rng = self._rng
        height = rng.integers(2) * rng.uniform(0.0, 0.09) + abs(rng.normal(0.0, 0.004))
        opening = 1.0 if rng.random() < 0.5 else rng.uniform(HOLDING - 0.02, 1.0)
        return block.position + np.array([*rng.normal(0.0, 0.006, 2), height]), self._turned(), opening

    def _start(self, block: Pose, plate: Pose) -> tuple[Array, float, float]:
        start = self._kinematics.forward(self._world.robot.pose("start"))
        return start.position + self._rng.normal(0.0, 0.01, 3), self._turned(), 1.0

    # ---- parts

    def _turned(self) -> float:
        """A yaw of the hand: square, as the expert keeps it, but for what it has to correct."""
        return float(self._rng.normal(0.0, self._rng.choice([0.02, 0.15])))

    def _hand(self, position: Array, yaw: float) -> tuple[Pose, Array] | None:
        """(pose, joint positions) there, a little tilted; None where the arm can't."""
        rng = self._rng
        tilt = Rotation.from_rotvec(rng.normal(0.0, rng.choice([0.005, 0.03]), 3))
        rotation = Rotation.from_euler("z", np.clip(yaw, -1.45, 1.45)) * tilt * DOWN
        wanted = Pose.from_rotation(np.clip(position, HAND_LOWER, HAND_UPPER), rotation)
        try:
            q = self._kinematics.solve(wanted, self._world.robot.pose("start"))
        except OpenVLAError:
            return None
        return self._kinematics.forward(q), q

    def _between_fingers(self, hand: Pose) -> Pose:
        rng = self._rng
        offset = rng.normal(0.0, [0.005, 0.0015, 0.004])
        spin = Rotation.from_euler("z", rng.normal(0.0, 0.05) + rng.integers(4) * QUARTER)
        return Pose.from_rotation(hand.position + hand.rotation.apply(offset), hand.rotation * DOWN.inv() * spin)


def _possible(view: View, colour: str, held: str | None) -> bool:
    """Whether nothing stands inside something else."""
    blocks = list(view.blocks.values())
    for i, a in enumerate(blocks):
        if any(np.linalg.norm(a.position - b.position) < APART for b in blocks[:i]):
            return False
    for name, block in view.blocks.items():
        away = block.position - view.hand.position
        if name != held and np.linalg.norm(away) < 0.02 and view.opening < HOLDING - 0.06:
            return False
        if name != colour and np.hypot(*away[:2]) < 0.03 and view.hand.position[2] < 0.03:
            return False
    return True


def _near(rng: np.random.Generator, pose: Pose, spread: float) -> Array:
    return pose.position[:2] + rng.normal(0.0, spread, 2)


def _upright(position: list[float], yaw: float) -> Pose:
    return Pose.from_rotation(np.array(position), Rotation.from_euler("z", yaw))


def _yaw(pose: Pose) -> float:
    """[rad] of a body that stands upright."""
    return float(pose.rotation.as_euler("xyz")[2])
