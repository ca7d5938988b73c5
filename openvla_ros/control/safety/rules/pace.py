"""The commanded pose never moves faster, nor speeds up, slows down or turns round harder, than its limits.

Judged on the course that results: what is left of the steps before, and this one on top, at every instant. Where both
together are too much, the step begins later, when the one before is done or at rest; where that is not enough either,
or would take longer than the smoothing, it is scaled and keeps its direction. Translation and rotation each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.course import Course, Step
from openvla_ros.control.safety.motion import TOLERANCE, Context, Motion
from openvla_ros.control.safety.rules import ramp_in
from openvla_ros.types import Array, RuleReport

SPEED, ACCELERATION = "speed", "acceleration"
_NEAR = 1e-4  # [s] over which an acceleration is found
_SLACK = 0.005  # [s] that a step may begin before the one before is done: a tick of a clock, an action that came early


@dataclass(frozen=True, slots=True)
class _Bound:
    """How much of a step fits below one limit; asked: the value of the whole step, allowed: of what fits."""

    code: str
    detail: str
    share: float
    asked: float
    allowed: float
    limit: float


class Pace:
    def __init__(self, config: SafetyConfig) -> None:
        self._motion = config.motion
        self._ramp = ramp_in.Ramp(config)

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        if not (motion.translation.any() or motion.rotvec.any()):
            return motion, []
        best, bounds, fits = motion, self._bounds(motion, context), -1.0
        for candidate in self._starts(motion, context):
            found = bounds if candidate is motion else self._bounds(candidate, context)
            share = min(bound.share for bound in found)
            if share > fits:
                best, bounds, fits = candidate, found, share
            if share >= 1 - TOLERANCE:
                return best, []
        reports = []
        for kind in ("translation", "rotation"):
            tightest = min((b for b in bounds if b.detail.startswith(kind)), key=lambda bound: round(bound.share, 6))
            if tightest.share >= 1 - TOLERANCE:
                continue
            reports.append(RuleReport(tightest.code, tightest.detail, tightest.asked, tightest.allowed, tightest.limit))
            if kind == "translation":
                best = best.with_translation(tightest.share * best.translation)
            else:
                best = best.with_rotvec(tightest.share * best.rotvec)
        return best, reports

    def _starts(self, motion: Motion, context: Context) -> list[Motion]:
        """The motion as it is, and begun when the one before is done, and when that is at rest."""
        if context.accepted is None:
            return [motion]
        course = context.accepted.course
        latest = context.start + course.window + _SLACK
        later = [t for t in (course.busy_until, course.end) if motion.start + 1e-9 < t <= latest]
        return [motion, *(motion.with_start(t) for t in later)]

    def _bounds(self, motion: Motion, context: Context) -> list[_Bound]:
        before = context.course(motion)
        step = motion.step()
        window = before.window
        moments = _moments(before, step)
        middles = (moments[1:] + moments[:-1]) / 2
        velocities, accelerations = _motion(before, moments, middles)
        rates, growths = step.rate(moments, window), step.growth(middles, window)
        limits, share = self._motion, self._ramp.share(context)
        # Turning about two axes at once adds their cross product to the acceleration.
        cross = float(np.abs(rates).max() * np.linalg.norm(motion.rotvec) * np.sqrt((velocities[1] ** 2).sum(1)).max())
        hardest = max(limits.max_acceleration_rad_s2 - cross, 0.0)
        code, why = (ramp_in.CODE, "motion has just begun") if share < 1 else (SPEED, "fastest")
        return [
            _bound(code, f"translation [m/s] scaled: {why}", velocities[0], rates, motion.translation,
                   share * limits.max_speed_m_s),
            _bound(code, f"rotation [rad/s] scaled: {why}", velocities[1], rates, motion.rotvec,
                   share * limits.max_speed_rad_s),
            _bound(ACCELERATION, "translation [m/s^2] scaled", accelerations[0], growths, motion.translation,
                   limits.max_acceleration_m_s2),
            _bound(ACCELERATION, "rotation [rad/s^2] scaled", accelerations[1], growths, motion.rotvec, hardest),
        ]  # fmt: skip


def _motion(before: Course, moments: Array, middles: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Velocities at ``moments`` and accelerations at ``middles``, linear and angular.

    Sums over the steps where they are exact. Several rotations at once turn each other: then by the twist, to which a
    further step adds as to a sum, since it turns all of it.
    """
    velocities, accelerations = before.velocities(moments), before.accelerations(middles)
    if sum(1 for step in before.steps if step.rotvec.any()) < 2:
        return velocities, accelerations
    turning = before.twists(np.concatenate([moments, middles - _NEAR, middles + _NEAR]))[:, 3:]
    at, earlier, later = np.split(turning, [len(moments), len(moments) + len(middles)])
    return (velocities[0], at), (accelerations[0], (later - earlier) / (2 * _NEAR))


def _moments(before: Course, step: Step) -> Array:
    """(m,) [s] at which the velocity of both together is not smooth: between them it is a straight line."""
    both = before.then(step)
    moments = both.changes(step.start)
    return moments[moments <= step.end + before.window + 1e-9]


def _bound(code: str, detail: str, before: Array, factors: Array, step: Array, limit: float) -> _Bound:
    """The largest share s in [0, 1] with |before + s factor step| <= limit in every row: before (m, 3), factors (m,).

    A row that is beyond the limit already (it was lowered meanwhile) must not get any longer.
    """
    added = factors[:, None] * step
    whole = float(np.sqrt(((before + added) ** 2).sum(axis=1)).max())
    bound = limit * (1 + TOLERANCE)
    if whole <= bound:
        return _Bound(code, detail, 1.0, whole, whole, limit)
    a, b = (added * added).sum(axis=1), (before * added).sum(axis=1)
    c = np.minimum((before * before).sum(axis=1) - bound * bound, 0.0)
    moves = a > 1e-18
    shares = (-b[moves] + np.sqrt(b[moves] ** 2 - a[moves] * c[moves])) / a[moves]
    share = min(max(float(shares.min(initial=1.0)), 0.0), 1.0)
    allowed = float(np.sqrt(((before + share * added) ** 2).sum(axis=1)).max())
    return _Bound(code, detail, share if math.isfinite(share) else 0.0, whole, allowed, limit)
