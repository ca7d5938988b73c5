"""The arm's links keep their distance from each other and from the table. Moving apart is free, also from too near."""

from __future__ import annotations

from collections.abc import Callable

from openvla_ros.control.safety.arm import Approach, ArmModel, JointPath, Posture
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Objection
from openvla_ros.types import Array


class SelfCollision:
    """Of every pair of links, judged all along a path."""

    def __init__(self, config: SafetyConfig, model: ArmModel) -> None:
        band = config.collision
        self._names, self._stop = model.pair_names, band.self_stop_m
        self._approach = Approach(band.self_slow_down_m, band.self_stop_m, band.approach_s)

    def __call__(self, path: JointPath, context: Context) -> Objection | None:
        worst = _worst(self._approach, path, lambda posture: posture.distances)
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
        self._names, self._table, self._stop = model.link_names, band.table_z_m, band.table_stop_m
        self._approach = Approach(
            band.table_z_m + band.table_slow_down_m, band.table_z_m + band.table_stop_m, band.approach_s
        )

    def __call__(self, path: JointPath, context: Context) -> Objection | None:
        worst = _worst(self._approach, path, lambda posture: posture.heights)
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


def _worst(approach: Approach, path: JointPath, of: Callable[[Posture], Array]) -> int | None:
    """Which of the values comes too near somewhere along the path, None if none does."""
    if len(of(path.postures[0])) == 0:
        return None
    excess = approach.excess(path, of)
    worst = int(excess.argmax())
    return worst if excess[worst] > 0 else None
