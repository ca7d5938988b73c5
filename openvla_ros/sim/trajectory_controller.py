"""A position controller that follows joint trajectories as ros2_control's JointTrajectoryController does by default,
with ``interpolate_from_desired_state`` on (as a stream of short trajectories needs)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.errors import OpenVLAError
from openvla_ros.types import Array


class TrajectoryRejectedError(OpenVLAError):
    """A trajectory was not accepted; the one before it goes on. Says why."""


class TrajectoryController:
    """Follows the newest accepted trajectory and holds its last point.

    A new trajectory replaces the old at once: its first point is approached from the state desired at that moment.
    Times are seconds of one clock of the caller's choice. Joint arrays are (m,), in the order of joint_names.
    """

    def __init__(self, joint_names: Sequence[str], positions: Array) -> None:
        self.joint_names = tuple(joint_names)
        self.reset(positions)

    def reset(self, positions: Array) -> None:
        """Forget the trajectory and hold positions (m,)."""
        hold = np.array(positions, dtype=np.float64)
        if hold.shape != (len(self.joint_names),) or not np.isfinite(hold).all():
            raise ValueError(f"{positions} must be finite positions of {self.joint_names}")
        self._times = np.zeros(1)
        self._positions = hold[None]
        self._velocities: Array | None = None

    def accept(
        self,
        joint_names: Sequence[str],
        times: ArrayLike,
        positions: ArrayLike,
        velocities: ArrayLike | None = None,
        *,
        now: float,
        start: float | None = None,
    ) -> None:
        """Replace the trajectory.

        joint_names: all of the controller's, in any order; times: (k,) [s] from start (now, unless given), strictly
        increasing; positions: (k, m); velocities: (k, m) or None, zero in the last row.
        Raises TrajectoryRejectedError, changing nothing, when something does not fit.
        """
        order = self._order(joint_names)
        t = _array("times", times, 1)
        p = _array("positions", positions, 2)
        v = None if velocities is None else _array("velocities", velocities, 2)
        expected = (len(t), len(order))
        for name, values in (("positions", p), ("velocities", v)):
            if values is not None and values.shape != expected:
                raise TrajectoryRejectedError(f"{name} have shape {values.shape}; {expected} is needed")
        if len(t) == 0:
            raise TrajectoryRejectedError("the trajectory has no points")
        if t[0] < 0 or (np.diff(t) <= 0).any():
            raise TrajectoryRejectedError(f"times must not be negative and must strictly increase: {t.tolist()}")
        if v is not None and np.any(v[-1]):
            raise TrajectoryRejectedError(f"the last velocities must be zero, not {v[-1].tolist()}")
        begin = now if start is None else start
        if begin + t[-1] < now:
            raise TrajectoryRejectedError(f"the trajectory ended {now - begin - t[-1]:.3f} s ago")
        self._replace(begin + t, p[:, order], None if v is None else v[:, order], now)

    def sample(self, now: float) -> tuple[Array, Array]:
        """Desired positions (m,) and velocities (m,) at a time."""
        times, positions, velocities = self._times, self._positions, self._velocities
        i = int(np.searchsorted(times, now, side="right")) - 1
        if i < 0 or i >= len(times) - 1:
            return positions[max(i, 0)].copy(), np.zeros(len(self.joint_names))
        dt = times[i + 1] - times[i]
        s = (now - times[i]) / dt
        p0, p1 = positions[i], positions[i + 1]
        if velocities is None:
            return p0 + s * (p1 - p0), (p1 - p0) / dt
        return _hermite(s, dt, p0, p1, velocities[i], velocities[i + 1])

    def finished(self, now: float) -> bool:
        """Whether the last point is due."""
        return bool(now >= self._times[-1])

    def _order(self, joint_names: Sequence[str]) -> list[int]:
        names = list(joint_names)
        if sorted(names) != sorted(self.joint_names):
            raise TrajectoryRejectedError(
                f"joints are {names}; exactly {list(self.joint_names)} are needed, in any order"
            )
        return [names.index(name) for name in self.joint_names]

    def _replace(self, times: Array, positions: Array, velocities: Array | None, now: float) -> None:
        desired, velocity = self.sample(now)
        due = times > now
        if due.any():  # points already past are skipped, so that a late message causes no jump
            times = np.concatenate([[now], times[due]])
            positions = np.vstack([desired, positions[due]])
            velocities = None if velocities is None else np.vstack([velocity, velocities[due]])
        self._times, self._positions, self._velocities = times, positions, velocities


def _array(name: str, values: ArrayLike, dimensions: int) -> Array:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TrajectoryRejectedError(f"{name} are not a table of numbers: {error}") from error
    if array.ndim != dimensions:
        raise TrajectoryRejectedError(f"{name} have {array.ndim} dimensions; {dimensions} are needed")
    if not np.isfinite(array).all():
        raise TrajectoryRejectedError(f"{name} hold a number that is not finite: {array.tolist()}")
    return array


def _hermite(s: float, dt: float, p0: Array, p1: Array, v0: Array, v1: Array) -> tuple[Array, Array]:
    """Position and velocity at fraction s of the cubic through two points with given velocities."""
    a = 2 * (p0 - p1) + dt * (v0 + v1)
    b = -3 * (p0 - p1) - dt * (2 * v0 + v1)
    position = p0 + s * (dt * v0 + s * (b + s * a))
    velocity = v0 + s * (2 * b + 3 * s * a) / dt
    return position, velocity
