"""Near a singularity the motion towards it slows down, and ends before it. Away from it is free."""

from __future__ import annotations

import numpy as np

from openvla_ros.control.safety.arm import Approach, ArmModel, JointPath
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Objection

CODE = "singularity"


class Singularity:
    """Judged at the end of a path: on the way the joint speeds tell."""

    def __init__(self, config: SafetyConfig, model: ArmModel) -> None:
        band = config.singularity
        self._stop = band.stop
        self._approach = Approach(band.slow_down, band.stop, band.approach_s)

    def __call__(self, path: JointPath, context: Context) -> Objection | None:
        before, after = path.postures[0].singular_value, path.postures[-1].singular_value
        if self._approach.excess(np.array(before), np.array(after), path.duration) <= 0:
            return None
        detail = "close to a singularity, smallest singular value: step cut"
        return Objection(CODE, detail, self._stop, lambda path: path.postures[-1].singular_value)
