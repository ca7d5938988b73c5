"""Near a singularity the motion towards it slows down, and ends before it. Away from it is free."""

from __future__ import annotations

import numpy as np

from openvla_ros.control.safety.arm import Approach, ArmModel, JointPath
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Objection

CODE = "singularity"


class Singularity:
    """Judged all along a path: a wrist may turn through its singularity and be far from it again at the end."""

    def __init__(self, config: SafetyConfig, model: ArmModel) -> None:
        band = config.singularity
        self._stop = band.stop
        self._approach = Approach(band.slow_down, band.stop, band.approach_s)

    def __call__(self, path: JointPath, context: Context) -> Objection | None:
        excess = self._approach.excess(path, lambda posture: np.array(posture.singular_value))
        if excess <= 0:
            return None
        return Objection(CODE, "close to a singularity, smallest singular value: step cut", self._stop, _least)


def _least(path: JointPath) -> float:
    return min(posture.singular_value for posture in path.postures)
