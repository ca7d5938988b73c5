"""Where the end effector is commanded to be over time: steps that overlap, each smoothed, one after another.

A step adds its translation and rotation to what was commanded before, evenly over its duration, and this is averaged
over a window. So velocity is continuous, acceleration is a step's speed over the window at most, a stream of equal
steps on time is an even motion, and the end effector comes to rest by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openvla_ros import geometry
from openvla_ros.types import Array, Pose


@dataclass(frozen=True, slots=True)
class Step:
    """translation (3,) [m] and rotvec (3,) [rad] in base axes, from ``start`` [s] on, within ``duration`` [s]."""

    translation: Array
    rotvec: Array
    start: float
    duration: float

    @property
    def end(self) -> float:
        """Without the smoothing."""
        return self.start + self.duration

    def share(self, times: Array, window: float) -> Array:
        """(m,) how much of it is done."""
        t = times - self.start
        return (_ramped(t, self.duration) - _ramped(t - window, self.duration)) / window

    def rate(self, times: Array, window: float) -> Array:
        """(m,) [1/s] derivative of ``share``."""
        t = (times - self.start) / self.duration
        return (np.clip(t, 0.0, 1.0) - np.clip(t - window / self.duration, 0.0, 1.0)) / window

    def growth(self, times: Array, window: float) -> Array:
        """(m,) [1/s^2] derivative of ``rate``, at times where it has no step."""
        t = times - self.start
        begins = ((t >= 0) & (t < self.duration)).astype(np.float64)
        ends = ((t - window >= 0) & (t - window < self.duration)).astype(np.float64)
        return (begins - ends) / (self.duration * window)


def _ramped(t: Array, duration: float) -> Array:
    """Integral of a ramp from 0 to 1."""
    inside = np.clip(t, 0.0, duration)
    return inside * inside / (2 * duration) + np.maximum(t - duration, 0.0)


@dataclass(frozen=True, slots=True)
class Course:
    """From ``base`` through ``steps``, in the order in which they were added."""

    base: Pose
    window: float  # of the smoothing [s]
    steps: tuple[Step, ...] = ()

    def target(self) -> Pose:
        """Where it ends."""
        pose = self.base
        for step in self.steps:
            pose = geometry.moved(pose, step.translation, step.rotvec)
        return pose

    @property
    def end(self) -> float:
        """When it is at rest [s]; -inf without steps."""
        return max((step.end + self.window for step in self.steps), default=-np.inf)

    @property
    def busy_until(self) -> float:
        """When a further step can begin without overlap [s]: less the smoothing."""
        return max((step.end for step in self.steps), default=-np.inf)

    def then(self, step: Step) -> Course:
        return Course(self.base, self.window, (*self.steps, step))

    def since(self, now: float) -> Course:
        """The same from now on, without the steps at the beginning that are over."""
        base, steps = self.base, self.steps
        while steps and steps[0].end + self.window <= now:
            base = geometry.moved(base, steps[0].translation, steps[0].rotvec)
            steps = steps[1:]
        return self if len(steps) == len(self.steps) else Course(base, self.window, steps)

    def changes(self, start: float) -> Array:
        """(m,) [s] rising: ``start``, then where the acceleration has a step; the last is the end."""
        moments = {start}
        for step in self.steps:
            for moment in (step.start, step.start + self.window, step.end, step.end + self.window):
                moments.add(max(moment, start))
        ordered = np.array(sorted(moments))
        return ordered[np.concatenate([[True], np.diff(ordered) > 1e-6])]

    def positions(self, times: Array) -> Array:
        """(m, 3) [m]."""
        found = np.repeat(self.base.position[None, :], len(times), axis=0)
        for step in self.steps:
            found += step.share(times, self.window)[:, None] * step.translation
        return found

    def quaternions(self, times: Array) -> Array:
        """(m, 4), x y z w."""
        found = np.repeat(self.base.quaternion[None, :], len(times), axis=0)
        for step in self.steps:
            if step.rotvec.any():
                found = _turned(step.share(times, self.window)[:, None] * step.rotvec, found)
        return found

    def at(self, time: float) -> Pose:
        times = np.array([time])
        return Pose(self.positions(times)[0], self.quaternions(times)[0])

    def velocities(self, times: Array) -> tuple[Array, Array]:
        """(m, 3) [m/s] and (m, 3) [rad/s], as sums over the steps: for two at a time as long as those of the twist."""
        rates = [step.rate(times, self.window)[:, None] for step in self.steps]
        return self._sums(rates, len(times))

    def twists(self, times: Array) -> Array:
        """(m, 6): linear [m/s] and angular [rad/s] velocity."""
        found = np.zeros((len(times), 6))
        for step in self.steps:
            rate = step.rate(times, self.window)[:, None]
            found[:, :3] += rate * step.translation
            if step.rotvec.any():
                found[:, 3:] = _rotated(step.share(times, self.window)[:, None] * step.rotvec, found[:, 3:])
                found[:, 3:] += rate * step.rotvec
        return found

    def accelerations(self, times: Array) -> tuple[Array, Array]:
        """(m, 3) [m/s^2] and (m, 3) [rad/s^2], without what comes from turning about two axes at once."""
        growths = [step.growth(times, self.window)[:, None] for step in self.steps]
        return self._sums(growths, len(times))

    def _sums(self, weights: list[Array], count: int) -> tuple[Array, Array]:
        linear, angular = np.zeros((count, 3)), np.zeros((count, 3))
        for weight, step in zip(weights, self.steps, strict=True):
            linear += weight * step.translation
            angular += weight * step.rotvec
        return linear, angular


def _turned(rotvecs: Array, quaternions: Array) -> Array:
    """(m, 4) quaternions (m, 4) turned further by rotvecs (m, 3) [rad] about fixed axes."""
    angles = np.sqrt((rotvecs * rotvecs).sum(axis=1))
    factor = np.where(angles < 1e-9, 0.5, np.sin(angles / 2) / np.maximum(angles, 1e-9))[:, None]
    p, pw = rotvecs * factor, np.cos(angles / 2)[:, None]
    q, qw = quaternions[:, :3], quaternions[:, 3:]
    return np.hstack([pw * q + qw * p + np.cross(p, q), pw * qw - (p * q).sum(axis=1, keepdims=True)])


def _rotated(rotvecs: Array, vectors: Array) -> Array:
    """(m, 3) vectors (m, 3) turned by rotvecs (m, 3) [rad] (Rodrigues)."""
    if not vectors.any():
        return vectors
    angles = np.sqrt((rotvecs * rotvecs).sum(axis=1, keepdims=True))
    axes = rotvecs / np.maximum(angles, 1e-12)
    cosine = np.cos(angles)
    along = axes * (axes * vectors).sum(axis=1, keepdims=True)
    return cosine * vectors + np.sin(angles) * np.cross(axes, vectors) + (1 - cosine) * along
