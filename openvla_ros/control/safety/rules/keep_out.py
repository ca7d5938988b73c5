"""The end effector's point does not enter any of the configured boxes, and does not pass through one either.

Judged along the course that results from a step: between two targets outside a box it may lead through its corner.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.course import Course
from openvla_ros.control.safety.motion import Context, Motion, largest_share, length
from openvla_ros.types import Array, RuleReport

CODE = "keep_out"
_CLEARANCE = 1e-3  # [m] that the course keeps from a box: joints are interpolated between its points
_SPACING = 0.02  # [s] between two of its points


class KeepOut:
    """A step is shortened until the course stays outside. An arm that starts inside a box may only come out."""

    def __init__(self, config: SafetyConfig) -> None:
        self._boxes = config.keep_out

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        if not self._boxes or not motion.translation.any():
            return motion, []
        course = context.course(motion)
        times = _times(course.then(motion.step()), context.start)
        before = course.positions(times)
        added = motion.step().share(times, course.window)[:, None] * motion.translation
        reports = []
        for box in self._boxes:
            lower, upper = np.array(box.lower_m) - _CLEARANCE, np.array(box.upper_m) + _CLEARANCE
            ends = float(_depths(before[-1:], lower, upper)[0])
            if not _meets(before + added, lower, upper, ends):
                continue
            share = _share(before, added, lower, upper, ends)
            asked = length(motion.translation)
            motion, added = motion.with_translation(share * motion.translation), share * added
            allowed = length(motion.translation)
            reports.append(RuleReport(CODE, f"'{box.name}' is in the way: step [m] cut", asked, allowed, allowed))
        return motion, reports


def _share(before: Array, added: Array, lower: Array, upper: Array, ends: float) -> float:
    """How much of ``added`` (m, 3) goes on top of ``before`` (m, 3) outside the box; 0 where that meets it anyway."""
    if _meets(before, lower, upper, ends):
        return 0.0
    return largest_share(lambda share: not _meets(before + share * added, lower, upper, ends))


def _times(course: Course, start: float) -> Array:
    """(m,) [s] from ``start`` to the end of a course, _SPACING apart or less, and all its changes."""
    changes = course.changes(start)
    even = np.arange(start, changes[-1], _SPACING)
    return np.union1d(changes, even)


def _meets(points: Array, lower: Array, upper: Array, ends: float) -> bool:
    """Whether the line through points (m, 3) enters the box; from inside, whether it goes deeper or stays.

    ends: how deep it ends without the step that is judged [m]: it must not end deeper with it.
    """
    depths = _depths(points, lower, upper)
    inside = depths[0] > 0
    if inside:
        return bool(depths.max() > depths[0] + 1e-9 or depths[-1] >= depths[0] or depths[-1] > max(ends, 0.0) + 1e-9)
    if (np.maximum(points.min(axis=0), lower) > np.minimum(points.max(axis=0), upper)).any():
        return False  # far away
    return bool(_enters(points[:-1], np.diff(points, axis=0), lower, upper).any())


def _depths(points: Array, lower: Array, upper: Array) -> Array:
    """(m,) how deep points (m, 3) lie in the box, negative outside [m]."""
    return np.minimum(points - lower, upper - points).min(axis=1)


def _enters(starts: Array, steps: Array, lower: Array, upper: Array) -> Array:
    """(m,) whether a line from starts (m, 3) along steps (m, 3) has a part inside the box (slab method)."""
    still = abs(steps) < 1e-12
    safe = np.where(still, 1.0, steps)
    first, last = (lower - starts) / safe, (upper - starts) / safe
    between = (lower < starts) & (starts < upper)
    enters = np.where(still, np.where(between, -np.inf, np.inf), np.minimum(first, last)).max(axis=1)
    leaves = np.where(still, np.where(between, np.inf, -np.inf), np.maximum(first, last)).min(axis=1)
    return np.maximum(enters, 0.0) < np.minimum(leaves, 1.0)
