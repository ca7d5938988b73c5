"""Joint positions over time, as an arm is told them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openvla_ros.types import Array

_REST = 1e-9  # [rad/s] below which a reference stands still


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Cubic Hermite between knots, at rest before the first and after the last: what ros2_control's controller does.

    times: (k,) [s], increasing, on a clock that the owner names; positions: (k, n) [rad]; velocities: (k, n) [rad/s].
    Raises ValueError on shapes that do not agree, times that do not increase, or numbers that are not finite.
    """

    times: Array
    positions: Array
    velocities: Array

    def __post_init__(self) -> None:
        shape = np.shape(self.positions)
        if len(shape) != 2 or 0 in shape or np.shape(self.velocities) != shape or np.shape(self.times) != shape[:1]:
            shapes = f"{np.shape(self.times)}, {shape} and {np.shape(self.velocities)}"
            raise ValueError(
                f"times, positions and velocities have shapes {shapes}; (k,), (k, n) and (k, n) are needed"
            )
        if not all(np.isfinite(values).all() for values in (self.times, self.positions, self.velocities)):
            raise ValueError("the trajectory has numbers that are not finite")
        if (np.diff(self.times) <= 0).any():
            raise ValueError(f"times must increase: {np.round(self.times, 4).tolist()}")

    @classmethod
    def at_rest(cls, q: Array, time: float = 0.0) -> Trajectory:
        """Stays at joint positions q (n,)."""
        return cls(np.array([time]), q[None, :].copy(), np.zeros((1, len(q))))

    @property
    def start(self) -> float:
        return float(self.times[0])

    @property
    def end(self) -> float:
        return float(self.times[-1])

    @property
    def duration(self) -> float:
        return self.end - self.start

    @property
    def last(self) -> Array:
        """(n,) where it ends."""
        return self.positions[-1]

    def rests(self, since: float) -> bool:
        """Whether nothing moves from a time on."""
        if since >= self.end:
            return True
        first = max(int(np.searchsorted(self.times, since, side="right")) - 1, 0)
        rest = abs(self.positions[first:] - self.last).max() < _REST
        return bool(rest and abs(self.velocities[first:]).max() < _REST)

    def at(self, time: float) -> tuple[Array, Array]:
        """Positions (n,) and velocities (n,) at a time."""
        q, qd = self.sampled(np.array([time]))
        return q[0], qd[0]

    def sampled(self, times: Array) -> tuple[Array, Array]:
        """Positions (m, n) and velocities (m, n) at times (m,)."""
        k = len(self.times)
        inside = (times >= self.times[0]) & (times < self.times[-1])
        i = np.clip(np.searchsorted(self.times, times, side="right") - 1, 0, max(k - 2, 0))
        if k == 1:
            return np.repeat(self.positions, len(times), axis=0), np.zeros((len(times), self.positions.shape[1]))
        h = (self.times[i + 1] - self.times[i])[:, None]
        s = np.clip((times - self.times[i])[:, None] / h, 0.0, 1.0)
        p0, p1, v0, v1 = self.positions[i], self.positions[i + 1], self.velocities[i] * h, self.velocities[i + 1] * h
        a, b = 2 * (p0 - p1) + v0 + v1, -3 * (p0 - p1) - 2 * v0 - v1
        q = p0 + s * (v0 + s * (b + s * a))
        qd = (v0 + s * (2 * b + 3 * s * a)) / h
        return q, np.where(inside[:, None], qd, 0.0)

    def shifted(self, by: float) -> Trajectory:
        """The same on a clock that shows ``by`` seconds more."""
        return Trajectory(self.times + by, self.positions, self.velocities)

    def since(self, time: float) -> Trajectory:
        """What is left from a time on; a single point where nothing is."""
        q, qd = self.at(time)
        later = self.times > time
        if not later.any():
            return Trajectory.at_rest(q, time)
        return Trajectory(
            np.concatenate([[time], self.times[later]]),
            np.vstack([q, self.positions[later]]),
            np.vstack([qd, self.velocities[later]]),
        )

    def followed_by(self, other: Trajectory, at: float, gap: float = 1e-3) -> Trajectory:
        """This one up to a time, then the points of ``other``, which must have some. Those nearer than ``gap`` [s] to
        the change are left out."""
        at = at if at > self.start + gap else self.start
        before, later = self.times < at - gap, other.times > at + gap
        q, qd = self.at(at)
        return Trajectory(
            np.concatenate([self.times[before], [at], other.times[later]]),
            np.vstack([self.positions[before], q, other.positions[later]]),
            np.vstack([self.velocities[before], qd, other.velocities[later]]),
        )
