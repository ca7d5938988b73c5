"""A straight motion of the end effector from rest to rest, as the safety filter's model of the arm finds it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from openvla_ros.robots.arm_model import ArmModel
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Array, Pose


@dataclass(frozen=True)
class Line:
    """From ``start`` to ``target`` within ``duration`` [s]: position and rotation evenly along, smooth in time."""

    start: Pose
    target: Pose
    duration: float

    @cached_property
    def motion(self) -> tuple[Array, Array]:
        return self.start.motion_to(self.target)

    def pose(self, time: float) -> Pose:
        s = time / self.duration
        return self.start.moved(*(s * s * (3 - 2 * s) * part for part in self.motion))

    def twist(self, time: float) -> Array:
        """(6,): linear [m/s] and angular [rad/s] velocity."""
        s = time / self.duration
        return 6 * s * (1 - s) / self.duration * np.concatenate(self.motion)


def followed(model: ArmModel, q: Array, line: Line, count: int = 25) -> Trajectory | None:
    """The joints' way from q (n,) [rad], which is at the line's start, through ``count`` points; None without one."""
    times = np.linspace(0.0, line.duration, count + 1)
    poses, twists = [line.pose(t) for t in times[1:]], np.array([line.twist(t) for t in times[1:]])
    found = model.follow(q, np.array([p.position for p in poses]), np.array([p.quaternion for p in poses]), twists)
    if found is None:
        return None
    positions, velocities = found
    return Trajectory(times, np.vstack([q, positions]), np.vstack([np.zeros_like(q), velocities]))


def straight_to(model: ArmModel, q: Array, target: Pose, duration: float, count: int = 25) -> Trajectory:
    """Times from 0 to ``duration`` [s]; at rest at q (n,) [rad] and at the target."""
    trajectory = followed(model, q, Line(model.forward(q), target, duration), count)
    assert trajectory is not None, f"no joint positions lead to {target}"
    return trajectory
