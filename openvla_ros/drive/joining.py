"""The way from where an arm is told to be onto the next path: what a controller makes of it when that came late."""

from __future__ import annotations

import math

import numpy as np

from openvla_ros.drive.braking import Twist
from openvla_ros.robots.description import CartesianLimits
from openvla_ros.trajectory import Trajectory

_SLACK = 1.15  # times a limit: a judged path, interpolated between its points, takes up to 1.12 times its acceleration
_SAME = 1e-3  # [rad], [rad/s] from the path
_NO_SPEED = 1e-3  # [m/s]
_NEAR = 1e-4  # [s] over which an acceleration is found


def problem(joined: Trajectory, path: Trajectory, begin: float, twist: Twist, limits: CartesianLimits) -> str:
    """Why ``path`` is not what comes next, where ``joined`` goes onto it from ``begin`` on; empty if it is.

    twist: as in ``braked``. Written so that a NaN is a problem.
    """
    off = max(float(abs(a - b).max()) for a, b in zip(joined.at(begin), path.at(begin), strict=True))
    return (_hurry(joined, path, begin, twist) if not off < _SAME else "") or _jerk(joined, begin, twist, limits)


def _hurry(joined: Trajectory, path: Trajectory, begin: float, twist: Twist) -> str:
    """What came late, or follows what did, is caught up with no faster than the path is, or the arm is told already."""
    knots = np.append(begin, path.times[path.times > begin])
    later = np.append(knots, (knots[1:] + knots[:-1]) / 2)
    allowed = max(*(_speed(path, time, twist) for time in later.tolist()), _speed(joined, begin, twist))
    first = int(np.searchsorted(joined.times, begin - 1e-6))
    start, end = joined.times[first : first + 2].tolist()
    hurry = max(_speed(joined, start + share * (end - start), twist) for share in (0.25, 0.5, 0.75))
    if hurry <= allowed + _NO_SPEED:
        return ""
    return f"to catch up with its path takes {hurry:.3f} m/s, the path {allowed:.3f}: it came too late"


def _jerk(joined: Trajectory, begin: float, twist: Twist, limits: CartesianLimits) -> str:
    """The way across takes no more acceleration than the arm may."""
    first = int(np.searchsorted(joined.times, begin - 1e-6))
    for start, end in zip(joined.times[first : first + 2], joined.times[first + 1 : first + 3], strict=False):
        for time, near in ((start, _NEAR), (end, -_NEAR)):
            before, after = twist(*joined.at(time)), twist(*joined.at(time + near))
            linear, angular = (math.hypot(*((b - a) / near).tolist()) for a, b in zip(before, after, strict=True))
            fits = linear <= _SLACK * limits.max_linear_acceleration
            if not (fits and angular <= _SLACK * limits.max_angular_acceleration):
                return f"to get onto its path takes {linear:.1f} m/s^2, {angular:.1f} rad/s^2: it came too late"
    return ""


def _speed(told: Trajectory, time: float, twist: Twist) -> float:
    """[m/s] of the end effector."""
    return math.hypot(*twist(*told.at(time))[0].tolist())
