"""The end effector stays in a box, in position and in orientation.

Position is clipped component by component: the arm slides along a wall. Orientation is bounded as the rotation vector
from a reference orientation (see ``config.WorkspaceLimits``), and a rotation that would leave the bounds is scaled
until it does not. Where the arm starts outside, it may move inwards only.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from openvla_ros import geometry
from openvla_ros.control.safety.arm import AXES
from openvla_ros.control.safety.config import SafetyConfig, Vector
from openvla_ros.control.safety.motion import Context, Motion, largest_share, length, share_until
from openvla_ros.types import Array, RuleReport

CODE = "workspace"
_ON_THE_WALL = 1e-6  # [m], [rad] beyond a bound that are no start outside
_ROUNDING = 1e-9  # [m], [rad] beyond a bound that are let pass


class Workspace:
    def __init__(self, config: SafetyConfig) -> None:
        box = config.workspace
        self._lower, self._upper = box.lower_m, box.upper_m
        self._rotation_lower, self._rotation_upper = box.rotation_lower_rad, box.rotation_upper_rad
        reference = np.array(box.reference_quaternion)
        self._from_reference = geometry.inverse(reference / np.linalg.norm(reference))

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        motion, reports = self._position(motion)
        motion, more = self._orientation(motion)
        return motion, reports + more

    def _position(self, motion: Motion) -> tuple[Motion, list[RuleReport]]:
        start, step, reports = motion.anchor.position.tolist(), motion.translation.tolist(), []
        bounds = _inwards_only(self._lower, self._upper, start)
        for i, (lower, upper) in enumerate(bounds):
            asked = start[i] + step[i]
            if lower - _ROUNDING <= asked <= upper + _ROUNDING:
                continue
            allowed, limit = (lower, self._lower[i]) if asked < lower else (upper, self._upper[i])
            shortened = min(max(allowed - start[i], min(step[i], 0.0)), max(step[i], 0.0))  # never turned round
            if shortened != step[i]:
                step[i] = shortened
                reports.append(RuleReport(CODE, f"{AXES[i]} [m] clipped", asked, allowed, limit))
        return (motion.with_translation(np.array(step)), reports) if reports else (motion, reports)

    def _orientation(self, motion: Motion) -> tuple[Motion, list[RuleReport]]:
        if length(motion.rotvec) == 0:
            return motion, []
        relative = geometry.multiply(motion.anchor.quaternion, self._from_reference)
        start = geometry.to_rotvec(relative)
        bounds = _inwards_only(self._rotation_lower, self._rotation_upper, start.tolist())

        def at(share: float) -> list[float]:
            turned = geometry.multiply(geometry.from_rotvec(share * motion.rotvec), relative)
            return _nearest(geometry.to_rotvec(turned), start).tolist()

        def excess(share: float, i: int) -> float:
            value = at(share)[i]
            return max(bounds[i][0] - value, value - bounds[i][1])

        def outside(values: list[float]) -> list[int]:
            return [i for i, v in enumerate(values) if not bounds[i][0] - _ROUNDING <= v <= bounds[i][1] + _ROUNDING]

        asked = at(1.0)
        beyond = outside(asked)
        if not beyond:
            return motion, []
        share = min(share_until(partial(excess, i=i)) for i in beyond)
        allowed = at(share)
        if outside(allowed):  # an axis that leaves its bounds on the way only
            share = largest_share(lambda share: not outside(at(share)))
            allowed = at(share)
        reports = []
        for i in beyond:
            limit = self._rotation_lower[i] if asked[i] < bounds[i][0] else self._rotation_upper[i]
            detail = f"rotation about {AXES[i]} from the reference [rad]: rotation scaled"
            reports.append(RuleReport(CODE, detail, asked[i], allowed[i], limit))
        return motion.with_rotvec(share * motion.rotvec), reports


def _inwards_only(lower: Vector, upper: Vector, start: list[float]) -> list[tuple[float, float]]:
    """(lower, upper) of each axis, widened to a start that lies outside of them."""
    return [
        (s if s < low - _ON_THE_WALL else low, s if s > high + _ON_THE_WALL else high)
        for low, high, s in zip(lower, upper, start, strict=True)
    ]


def _nearest(rotvec: Array, other: Array) -> Array:
    """Of the two rotation vectors (3,) of one rotation, up to a turn, that nearer to ``other``: no jump at pi."""
    angle = length(rotvec)
    if angle < np.pi / 2:  # the other one is further from everything within a step of this one
        return rotvec
    around = rotvec * (1 - 2 * np.pi / angle)
    return rotvec if length(rotvec - other) <= length(around - other) else around
