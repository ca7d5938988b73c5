"""To rest along the path that an arm is on, as soon as its acceleration allows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Array

_STEP = 0.01  # [s] between two points
_NEAR = 1e-4  # [s] over which the path's own acceleration is found
_LONGEST = 2.0  # [s] that is looked at: at the limits of any arm here a stop takes a tenth of a second

Twist = Callable[[Array, Array], tuple[Array, Array]]


def braked(told: Trajectory, now: float, twist: Twist, linear: float, angular: float) -> Trajectory:
    """``told`` from now on, slowed down to rest: the same positions one after another, only later and later.

    twist: positions and velocities (n,) of joints -> (3,) [m/s], (3,) [rad/s] of the end effector; linear [m/s^2],
    angular [rad/s^2]: its largest acceleration. The path was judged where it leads; so it is not left.
    """
    end = min(told.end, now + _LONGEST)
    times, along, rates = [now], [now], [1.0]
    place, rate = now, 1.0
    while rate > 0 and place < end - 1e-9 and times[-1] < now + _LONGEST:
        ahead = min(place + rate * _STEP, end)
        # Between two points the path's own acceleration may change at once: what both sides allow.
        sides = _motion(told, twist, place, _NEAR), _motion(told, twist, ahead, -_NEAR)
        slowing = max(
            max(_slowing(v[:3], a[:3], rate, linear), _slowing(v[3:], a[3:], rate, angular)) for v, a in sides
        )
        before, rate = rate, max(rate + slowing * _STEP, 0.0)
        taken = _STEP if rate > 0 else before / -slowing
        place = min(place + (before + rate) / 2 * taken, end)
        times.append(times[-1] + max(taken, 1e-3))
        along.append(place)
        rates.append(rate)
    positions, speeds = told.sampled(np.array(along))
    scale = np.array(rates)[:, None]
    scale[-1] = 0.0
    return Trajectory(np.array(times), positions, speeds * scale)


def _motion(told: Trajectory, twist: Twist, time: float, near: float) -> tuple[Array, Array]:
    """(6,) velocity and (6,) acceleration of the end effector at a time, as it is on the side of ``near``."""
    (q, qd), (q_near, qd_near) = told.at(time), told.at(time + near)
    velocity = np.concatenate(twist(q, qd))
    return velocity, (np.concatenate(twist(q_near, qd_near)) - velocity) / near


def _slowing(velocity: Array, acceleration: Array, rate: float, limit: float) -> float:
    """The hardest change of rate [1/s], not above 0, with |acceleration rate^2 + velocity change| <= limit.

    That holds while the rate falls, too, and with it what the path's own acceleration adds. -inf where nothing moves; 0
    where the path's own acceleration takes all of the limit.
    """
    a = float(velocity @ velocity)
    if a < 1e-12:
        return -math.inf
    b = float(velocity @ acceleration) * rate**2
    c = float(acceleration @ acceleration) * rate**4 - limit**2
    root = b * b - a * c
    return min(max(-b - math.sqrt(root), -limit * math.sqrt(a)) / a, 0.0) if root > 0 else 0.0
