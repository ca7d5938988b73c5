"""No point of the arm moves faster than a limit: an elbow may hit somebody while the end effector stands still."""

from __future__ import annotations

import numpy as np

from openvla_ros.control.safety.arm import ArmModel, JointPath
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import TOLERANCE, Context, Objection
from openvla_ros.types import Array

CODE = "link_speed"
_SOON = 1e-3  # [s] over which the speed at a point of a path is found


class LinkSpeed:
    """By the corners of every shape that moves: the fastest point of a rigid body's hull is one of its corners."""

    def __init__(self, config: SafetyConfig, model: ArmModel) -> None:
        self._model = model
        self._names = model.link_names
        self._limit = config.motion.max_link_speed_m_s

    def __call__(self, path: JointPath, context: Context) -> Objection | None:
        fastest = self._fastest(path)
        if not fastest.size or fastest.max() <= self._limit * (1 + TOLERANCE):
            return None
        worst = int(fastest.argmax())
        detail = f"{self._names[worst]} [m/s] would be too fast: step cut"
        return Objection(CODE, detail, self._limit, lambda path: float(self._fastest(path)[worst]))

    def _fastest(self, path: JointPath) -> Array:
        """(shapes,) [m/s] of each shape's fastest corner along the path: on average between two points, and at them."""
        soon = path.positions + _SOON * path.velocities
        corners, soon_corners = np.split(self._model.corners(np.vstack([path.positions, soon])), 2, axis=1)
        between = _largest(np.diff(corners, axis=1)) / np.diff(path.times)
        fastest: Array = np.maximum(between.max(axis=1), _largest(soon_corners - corners).max(axis=1) / _SOON)
        return fastest


def _largest(moved: Array) -> Array:
    """(shapes, k) [m] that the corners (shapes, k, 3, 8) moved, at most."""
    largest: Array = np.sqrt(np.einsum("skic,skic->skc", moved, moved).max(axis=2, initial=0.0))
    return largest
