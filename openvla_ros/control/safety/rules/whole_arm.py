"""Nothing of the arm leaves a box, where one is configured: walls, a cage, a ceiling. Coming back is free."""

from __future__ import annotations

import numpy as np

from openvla_ros.control.safety.arm import AXES, Approach, ArmModel, JointPath, Posture
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Objection
from openvla_ros.types import Array

CODE = "whole_arm"


class WholeArm:
    """Of every shape that moves and each of the six walls, judged all along a path."""

    def __init__(self, config: SafetyConfig, model: ArmModel) -> None:
        walls, band = config.whole_arm, config.collision
        self._lower = None if walls.lower_m is None else np.array(walls.lower_m)
        self._upper = None if walls.upper_m is None else np.array(walls.upper_m)
        names = (("lower", self._lower), ("upper", self._upper))
        sides = [f"the {name} wall in {axis}" for name, corner in names if corner is not None for axis in AXES]
        self._names = [f"{link} and {side}" for link in model.link_names for side in sides]
        self._stop = band.obstacle_stop_m
        self._approach = Approach(band.obstacle_slow_down_m, band.obstacle_stop_m, band.approach_s)

    def __call__(self, path: JointPath, context: Context) -> Objection | None:
        if not self._names:
            return None
        worst = self._approach.worst(path, self._gaps)
        if worst is None:
            return None
        detail = f"{self._names[worst]}, distance [m]: step cut"
        return Objection(CODE, detail, self._stop, lambda path: min(float(self._gaps(p)[worst]) for p in path.postures))

    def _gaps(self, posture: Posture) -> Array:
        """(shapes * walls,) [m] of each shape from each wall, negative beyond it."""
        least, greatest = posture.extents
        gaps = [] if self._lower is None else [least - self._lower]
        if self._upper is not None:
            gaps.append(self._upper - greatest)
        return np.hstack(gaps).ravel()
