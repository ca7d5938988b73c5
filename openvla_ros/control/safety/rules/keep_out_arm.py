"""No link that moves comes near a keep-out box, nor does an object in the hand. Leaving is free, also from inside."""

from __future__ import annotations

from openvla_ros.control.safety.arm import Approach, ArmModel, JointPath, Posture
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Objection
from openvla_ros.types import Array

CODE = "keep_out_arm"


class KeepOutArm:
    """Of every shape of the arm and every box, judged all along a path. ``KeepOut`` is the end effector's point's."""

    def __init__(self, config: SafetyConfig, model: ArmModel) -> None:
        band = config.collision
        self._names = [f"{link} and '{box.name}'" for link in model.link_names for box in config.keep_out]
        self._stop = band.obstacle_stop_m
        self._approach = Approach(band.obstacle_slow_down_m, band.obstacle_stop_m, band.approach_s)

    def __call__(self, path: JointPath, context: Context) -> Objection | None:
        if not self._names:
            return None
        worst = self._approach.worst(path, _distances)
        if worst is None:
            return None
        detail = f"{self._names[worst]}, distance [m]: step cut"
        return Objection(CODE, detail, self._stop, lambda path: min(float(_distances(p)[worst]) for p in path.postures))


def _distances(posture: Posture) -> Array:
    return posture.obstacle_distances.ravel()
