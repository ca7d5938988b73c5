"""The commanded pose stays near the measured one: a blocked arm does not wind up, a held arm does not sag.

Steps start from the last target, not from the measured pose, so gravity and friction do not add up to a drift. But what
is commanded never runs further ahead of the arm than the bound, as far as the arm follows as it does now; and an arm
that was moved away gives its old target up.
"""

from __future__ import annotations

import math

from openvla_ros import geometry
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import TOLERANCE, Context, Motion, Refused, length
from openvla_ros.types import Array, RuleReport

CODE = "tracking"


class Tracking:
    def __init__(self, config: SafetyConfig) -> None:
        self._config = config.tracking

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        assert context.arm is not None  # the freshness gate comes first
        measured, commanded = context.arm.pose, context.commanded(motion)
        offset = commanded.position - measured.position
        turn = geometry.between(measured.quaternion, commanded.quaternion)
        distance, angle = length(offset), length(geometry.to_rotvec(turn))
        self._refuse_lost(distance, self._config.max_error_m, "m")
        self._refuse_lost(angle, self._config.max_error_rad, "rad")

        reports = []
        limit = self._config.max_error_m
        share = share_within_ball(motion.translation, offset, max(limit, distance))
        if share < 1:
            asked = length(offset + motion.translation)
            motion = motion.with_translation(share * motion.translation)
            allowed = length(offset + motion.translation)
            reports.append(RuleReport(CODE, "the arm is not following: distance [m]", asked, allowed, limit))
        limit = self._config.max_error_rad
        share = share_within_angle(motion.rotvec, turn, max(limit, angle))
        if share < 1:
            asked = _angle_after(motion.rotvec, turn)
            motion = motion.with_rotvec(share * motion.rotvec)
            allowed = _angle_after(motion.rotvec, turn)
            reports.append(RuleReport(CODE, "the arm is not following: angle [rad]", asked, allowed, limit))
        return motion, reports

    def _refuse_lost(self, error: float, bound: float, unit: str) -> None:
        limit = bound * self._config.hold_factor
        if error > limit:
            detail = f"the arm was moved away from its target [{unit}]: it holds, the next step starts where it is"
            raise Refused(RuleReport(CODE, detail, error, 0.0, limit), hold=True)


def _angle_after(rotvec: Array, turn: Array) -> float:
    return length(geometry.to_rotvec(geometry.multiply(geometry.from_rotvec(rotvec), turn)))


def share_within_ball(step: Array, offset: Array, radius: float) -> float:
    """The largest s in [0, 1] with |offset + s step| <= radius, for |offset| <= radius. step, offset: (3,)."""
    radius *= 1 + TOLERANCE
    if length(offset + step) <= radius:
        return 1.0
    a, b, c = float(step @ step), float(offset @ step), float(offset @ offset) - radius * radius
    return min(max((-b + math.sqrt(max(b * b - a * c, 0.0))) / a, 0.0), 1.0)


def share_within_angle(rotvec: Array, turn: Array, limit: float) -> float:
    """The largest s in [0, 1] for which exp(s rotvec) turn is a rotation by at most ``limit`` rad, where turn is one.

    With phi half the angle of s rotvec and u its axis, the product's scalar part is w cos(phi) - (u . v) sin(phi) for
    turn = (v, w): a cosine, M cos(phi + delta), solved for cos(limit / 2). rotvec: (3,) [rad]; turn: (4,), x y z w.
    """
    limit *= 1 + TOLERANCE
    if length(rotvec) == 0 or _angle_after(rotvec, turn) <= limit:
        return 1.0
    v, w = (turn[:3], turn[3]) if turn[3] >= 0 else (-turn[:3], -turn[3])
    half = length(rotvec) / 2
    sine = float(rotvec @ v) / (2 * half)
    amplitude, delta = math.hypot(w, sine), math.atan2(sine, w)
    phi = math.acos(min(math.cos(limit / 2) / amplitude, 1.0)) - delta
    return min(max(phi / half, 0.0), 1.0)
