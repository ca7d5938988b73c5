"""Every joint stays within its range, with a margin. One that is beyond it already may move inwards only."""

from __future__ import annotations

import numpy as np

from openvla_ros.control.safety.arm import ArmModel, JointPath
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import TOLERANCE, Context, Objection

CODE = "joint_range"


class JointRange:
    def __init__(self, config: SafetyConfig, model: ArmModel) -> None:
        margin = config.joints.margin_rad
        self._names = model.joint_names
        self._lower, self._upper = model.lower + margin, model.upper - margin

    def __call__(self, path: JointPath, context: Context) -> Objection | None:
        start, following = path.positions[0], path.positions[1:]
        below = np.minimum(self._lower, start) - following
        above = following - np.maximum(self._upper, start)
        beyond = np.maximum(below, above)
        worst, joint = divmod(int(beyond.argmax()), beyond.shape[1])
        if beyond[worst, joint] <= TOLERANCE:
            return None
        upwards = above[worst, joint] > 0
        limit = float(self._upper[joint] if upwards else self._lower[joint])

        def measure(path: JointPath) -> float:
            positions = path.positions[:, joint]
            return float(positions.max() if upwards else positions.min())

        return Objection(CODE, f"{self._names[joint]} [rad] is at the end of its range: step cut", limit, measure)
