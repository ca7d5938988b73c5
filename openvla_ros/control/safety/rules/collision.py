"""The arm's links keep their distance from each other and from the table. Moving apart is free, also from too near."""

from __future__ import annotations

from openvla_ros.control.safety.arm import Approach, ArmModel, JointPath
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Objection


class SelfCollision:
    """Of every pair of links, judged all along a path."""

    def __init__(self, config: SafetyConfig, model: ArmModel) -> None:
        band = config.collision
        self._names, self._stop = model.pair_names, band.self_stop_m
        self._approach = Approach(band.self_slow_down_m, band.self_stop_m, band.approach_s)

    def __call__(self, path: JointPath, context: Context) -> Objection | None:
        worst = self._approach.worst(path, lambda posture: posture.distances)
        if worst is None:
            return None
        detail = f"{self._names[worst]}, distance [m]: step cut"
        return Objection(
            "self_collision", detail, self._stop, lambda path: min(float(p.distances[worst]) for p in path.postures)
        )


class TableCollision:
    """Of every link that moves, the gripper's fingers among them."""

    def __init__(self, config: SafetyConfig, model: ArmModel) -> None:
        band = config.collision
        self._names, self._table, self._stop = model.link_names, band.table_height_m, band.table_stop_m
        self._approach = Approach(
            self._table + band.table_slow_down_m, self._table + band.table_stop_m, band.approach_s
        )

    def __call__(self, path: JointPath, context: Context) -> Objection | None:
        worst = self._approach.worst(path, lambda posture: posture.heights)
        if worst is None:
            return None
        detail = f"{self._names[worst]}, height above the table [m]: step cut"
        table = self._table
        return Objection(
            "table_collision",
            detail,
            self._stop,
            lambda path: min(float(p.heights[worst]) for p in path.postures) - table,
        )
