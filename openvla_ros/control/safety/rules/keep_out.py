"""The end effector's point does not enter any of the configured boxes, and does not pass through one either."""

from __future__ import annotations

import numpy as np

from openvla_ros.control.safety.config import Box, SafetyConfig
from openvla_ros.control.safety.motion import Context, Motion, length
from openvla_ros.types import Array, RuleReport

CODE = "keep_out"
_CLEARANCE = 1e-5  # [m] that a step stops before a box


class KeepOut:
    """A step is cut where its straight line meets a box. An arm that starts inside one may only come out."""

    def __init__(self, config: SafetyConfig) -> None:
        self._boxes = config.keep_out

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        reports = []
        for box in self._boxes:
            share = _allowed_share(box, motion.anchor.position, motion.translation)
            if share < 1:
                asked = length(motion.translation)
                motion = motion.with_translation(share * motion.translation)
                allowed = length(motion.translation)
                reports.append(RuleReport(CODE, f"'{box.name}' is in the way: step [m] cut", asked, allowed, allowed))
        return motion, reports


def _allowed_share(box: Box, start: Array, step: Array) -> float:
    norm = length(step)
    if norm == 0:
        return 1.0
    lower, upper = np.array(box.lower_m), np.array(box.upper_m)
    if _depth(start, lower, upper) > 0:
        # depth along a line is concave: falling at first, it falls all the way
        return 1.0 if _depth(start + 1e-3 * step, lower, upper) < _depth(start, lower, upper) else 0.0
    entry = _entry(lower, upper, start, step)
    return 1.0 if entry is None else max(entry - _CLEARANCE / norm, 0.0)


def _depth(point: Array, lower: Array, upper: Array) -> float:
    """How deep (3,) lies in the box, negative outside [m]."""
    return float(np.minimum(point - lower, upper - point).min())


def _entry(lower: Array, upper: Array, start: Array, step: Array) -> float | None:
    """The share of ``step`` at which a point from outside enters the box, None if it does not (slab method)."""
    enters, leaves = 0.0, 1.0
    for i in range(3):
        if abs(step[i]) < 1e-12:
            if not lower[i] < start[i] < upper[i]:
                return None
            continue
        first, last = sorted(((lower[i] - start[i]) / step[i], (upper[i] - start[i]) / step[i]))
        enters, leaves = max(enters, first), min(leaves, last)
    return enters if enters < leaves else None
