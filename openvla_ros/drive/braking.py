"""To rest along the path that an arm is on, as soon as its acceleration allows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Array

_STEP = 0.01  # [s] between two points
_LONGEST = 2.0  # [s] that is looked at: at the limits of any arm here a stop takes a tenth of a second

Twist = Callable[[Array, Array], tuple[Array, Array]]


def braked(told: Trajectory, now: float, twist: Twist, linear: float, angular: float) -> Trajectory:
    """``told`` from now on, slowed down to rest: the same positions one after another, only later and later.

    twist: positions and velocities (n,) of joints -> (3,) [m/s], (3,) [rad/s] of the end effector; linear [m/s^2],
    angular [rad/s^2]: its largest acceleration. The path was judged where it leads; so it is not left.
    """
    places = np.append(np.arange(now, min(told.end, now + _LONGEST), _STEP), min(told.end, now + _LONGEST))
    if len(places) < 2 or places[-1] - places[-2] < 1e-6:
        places = places[:-1] if len(places) > 1 else places
    velocities = np.array([np.concatenate(twist(q, qd)) for q, qd in zip(*told.sampled(places), strict=True)])
    accelerations = np.gradient(velocities, places, axis=0) if len(places) > 1 else np.zeros_like(velocities)
    times, along, rates = [now], [now], [1.0]
    place, rate = now, 1.0
    while rate > 0 and place < places[-1] - 1e-9 and len(times) * _STEP < _LONGEST:
        v = np.array([np.interp(place, places, column) for column in velocities.T])
        a = np.array([np.interp(place, places, column) for column in accelerations.T])
        slowing = max(_slowing(v[:3], a[:3], rate, linear), _slowing(v[3:], a[3:], rate, angular))
        before, rate = rate, max(rate + slowing * _STEP, 0.0)
        taken = _STEP if rate > 0 else before / -slowing
        place = min(place + (before + rate) / 2 * taken, float(places[-1]))
        times.append(times[-1] + max(taken, 1e-3))
        along.append(place)
        rates.append(rate)
    positions, speeds = told.sampled(np.array(along))
    scale = np.array(rates)[:, None]
    scale[-1] = 0.0
    return Trajectory(np.array(times), positions, speeds * scale)


def _slowing(velocity: Array, acceleration: Array, rate: float, limit: float) -> float:
    """The hardest change of rate [1/s], not above 0, with |acceleration rate^2 + velocity change| <= limit.

    -inf where nothing moves; 0 where the path's own acceleration takes all of the limit.
    """
    a = float(velocity @ velocity)
    if a < 1e-12:
        return -math.inf if limit > 0 else 0.0
    b = float(velocity @ acceleration) * rate**2
    c = float(acceleration @ acceleration) * rate**4 - limit**2
    root = b * b - a * c
    return min((-b - math.sqrt(root)) / a, 0.0) if root > 0 else 0.0
