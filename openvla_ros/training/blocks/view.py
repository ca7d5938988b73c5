"""What the simulator knows about an image, as numbers to learn: objects and hand in space, and where they are seen."""

from __future__ import annotations

import numpy as np

from openvla_ros.sim.expert import View
from openvla_ros.sim.tasks import COLOURS
from openvla_ros.sim.world import World
from openvla_ros.types import Array

POINTS = (*COLOURS, "plate", "hand")  # that are looked for in an image
_POINT = ("x", "y", "z")
STATE = (
    *(f"{name}_{part}" for name in POINTS for part in _POINT),
    "hand_yaw",
    "opening",
)


def state_vector(view: View) -> Array:
    """(STATE,) [m, rad, share] in the base frame."""
    positions = [view.blocks[colour].position for colour in COLOURS]
    x, y, _ = view.hand.rotation.apply([0.0, 1.0, 0.0])
    turned = [np.arctan2(-x, y), view.opening]
    return np.concatenate([*positions, view.plate.position, view.hand.position, turned])


def points(states: Array) -> Array:
    """(n, POINTS, 3) positions of (n, STATE)."""
    return states[:, : 3 * len(POINTS)].reshape(-1, len(POINTS), 3)


class Lens:
    """Where a world's camera sees points."""

    def __init__(self, world: World, camera: str = "over_shoulder", aspect: float = 4 / 3) -> None:
        fixed = world.data.camera(camera)
        self._position, self._axes = fixed.xpos.copy(), fixed.xmat.reshape(3, 3).copy()
        self._scale = 1 / np.tan(np.radians(float(world.model.camera(camera).fovy[0])) / 2)
        self._aspect = aspect

    def project(self, positions: Array) -> Array:
        """(..., 3) [m] -> (..., 2): share of the image's width from the left, of its height from the top."""
        seen = (positions - self._position) @ self._axes
        x, y = (self._scale * seen[..., i] / -seen[..., 2] for i in (0, 1))
        return np.stack([0.5 + 0.5 * x / self._aspect, 0.5 - 0.5 * y], axis=-1)
