"""No joint is asked to turn faster than it can: near a singularity a slow end effector needs fast joints."""

from __future__ import annotations

import numpy as np

from openvla_ros.control.safety.arm import ArmModel, JointPath
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import TOLERANCE, Context, Objection
from openvla_ros.types import Array

CODE = "joint_speed"


class JointSpeed:
    def __init__(self, config: SafetyConfig, model: ArmModel) -> None:
        self._names = model.joint_names
        self._limits = config.joints.speed_fraction * model.max_velocity

    def __call__(self, path: JointPath, context: Context) -> Objection | None:
        fastest = _fastest(path)
        joint = int((fastest / self._limits).argmax())
        limit = float(self._limits[joint])
        if fastest[joint] <= limit * (1 + TOLERANCE):
            return None
        detail = f"{self._names[joint]} [rad/s] is too slow for this step: step cut"
        return Objection(CODE, detail, limit, lambda path: float(_fastest(path)[joint]))


def _fastest(path: JointPath) -> Array:
    """(n,) [rad/s] of each joint along the path: at its points, and on the cubics between them."""
    mean, v = np.diff(path.positions, axis=0) / np.diff(path.times)[:, None], path.velocities
    fastest = abs(v).max(axis=0)
    for s in (0.25, 0.5, 0.75):
        between = v[:-1] + 2 * s * (3 * mean - 2 * v[:-1] - v[1:]) + 3 * s * s * (v[:-1] + v[1:] - 2 * mean)
        fastest = np.maximum(fastest, abs(between).max(axis=0))
    return fastest
