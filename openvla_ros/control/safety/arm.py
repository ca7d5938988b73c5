"""The arm behind the end effector: what the safety filter asks of a model of it, and the joint path of a motion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from openvla_ros import geometry
from openvla_ros.types import ArmState, Array, Pose

AXES = "xyz"
Corner = tuple[float, float, float]  # x, y, z [m]
_MISFIT_M, _MISFIT_RAD = 0.01, 0.05  # between measured pose and measured joints, where model and arm are the same


class ArmModel(Protocol):
    """The arm as robots.arm_model.ArmModel knows it. Joint arrays are (n,) [rad], in the robot description's order."""

    joint_names: tuple[str, ...]
    lower: Array
    upper: Array
    max_velocity: Array
    redundant: bool
    pair_names: tuple[str, ...]
    link_names: tuple[str, ...]

    @property
    def reach(self) -> float:
        """[m] that the end effector gets away from the base frame's origin."""
        ...

    def forward(self, q: Array) -> Pose: ...

    def follow(self, q_start: Array, points: Array, quaternions: Array, twists: Array) -> tuple[Array, Array] | None:
        """Joint positions and velocities, (k, n) each, at poses one after another; None where there are none."""
        ...

    def null_space(self, q: Array, offset: Array) -> Array:
        """(n,) the part of joint velocities that does not move the end effector."""
        ...

    def smallest_singular_value(self, q: Array) -> float: ...

    def distances(self, q: Array, cutoff: float) -> Array:
        """(len(pair_names),) [m] between links, at most ``cutoff``."""
        ...

    def among(self, boxes: tuple[tuple[Corner, Corner], ...], held_ahead: float, held_aside: float) -> ArmModel:
        """This arm among boxes (lower, upper), with an object in its hand that reaches so far beyond the fingers."""
        ...

    def extents(self, q: Array) -> tuple[Array, Array]:
        """(len(link_names), 3) twice [m]: least and greatest coordinates of each shape that moves."""
        ...

    def corners(self, positions: Array) -> Array:
        """(len(link_names), m, 3, 8) [m]: x y z at positions (m, n) of corners of boxes that move with the shapes."""
        ...

    def obstacle_distances(self, q: Array, cutoff: float) -> Array:
        """(len(link_names), boxes) [m] to the boxes that the arm is among, at most ``cutoff``."""
        ...


class Posture:
    """The arm at joint positions q (n,), with what the rules ask about it, each found once."""

    def __init__(self, model: ArmModel, q: Array, cutoff: float) -> None:
        self.q = q
        self._model = model
        self._cutoff = cutoff

    @cached_property
    def singular_value(self) -> float:
        return self._model.smallest_singular_value(self.q)

    @cached_property
    def distances(self) -> Array:
        return self._model.distances(self.q, self._cutoff)

    @cached_property
    def extents(self) -> tuple[Array, Array]:
        return self._model.extents(self.q)

    @property
    def heights(self) -> Array:
        """(len(link_names),) [m] of each shape's lowest point above the base frame's origin."""
        return self.extents[0][:, 2]

    @cached_property
    def obstacle_distances(self) -> Array:
        return self._model.obstacle_distances(self.q, self._cutoff)


@dataclass(frozen=True, slots=True)
class JointPath:
    """Joint positions and velocities (k + 1, n) at times (k + 1,) [s]; the first is what the arm is told for then.

    ``postures``: the positions, one by one. Not ``reached``: no joint positions lead on, and this stays. ``remainder``:
    what the arm does without the step that is judged, the rest of what was judged before; None where it is at rest.
    """

    times: Array
    positions: Array
    velocities: Array
    postures: tuple[Posture, ...]
    reached: bool
    remainder: Callable[[], JointPath | None]


class Approach:
    """The band before a limit, for values that must not fall below ``stop``.

    Within it a value may fall no faster than (value - stop) / approach_s: the limit is neared ever more slowly and
    never passed. Rising is free, also from below it.
    """

    def __init__(self, slow_down: float, stop: float, approach_s: float) -> None:
        self._slow_down, self._stop, self._time = slow_down, stop, approach_s

    def excess(self, path: JointPath, of: Callable[[Posture], Array]) -> Array:
        """How much too far each value falls between two points of a path, at most; not above 0: allowed.

        A value that gets no lower than without the step that is judged is no objection to that step.
        """
        values = _along(path, of)
        before, after = values[:-1], values[1:]
        times = np.diff(path.times).reshape(-1, *[1] * (values.ndim - 1))
        falls = np.minimum(before, self._slow_down) - after  # what is above the band does not count
        most = np.maximum(after - self._stop, 0.0) * (times / self._time)
        excess = np.where((after >= self._slow_down) | (falls <= 1e-9), 0.0, falls - most).max(axis=0)
        if (excess > 0).any() and (remainder := path.remainder()) is not None:
            excess = np.where(values.min(axis=0) >= _along(remainder, of).min(axis=0) - 1e-9, 0.0, excess)
        return excess

    def worst(self, path: JointPath, of: Callable[[Posture], Array]) -> int | None:
        """Which of the values (m,) of a posture falls too far somewhere along the path; None if none does."""
        if len(of(path.postures[0])) == 0:
            return None
        excess = self.excess(path, of)
        worst = int(excess.argmax())
        return worst if excess[worst] > 0 else None


def _along(path: JointPath, of: Callable[[Posture], Array]) -> Array:
    """(k + 1, ...) a value at each point of a path."""
    return np.array([of(posture) for posture in path.postures])


def arm_model_problem(state: ArmState, model: ArmModel) -> str:
    """Why a measured state cannot be of this arm; empty if it can."""
    if state.joint_positions.shape != model.lower.shape:
        return f"{state.joint_positions.size} joints were measured, the arm model has {model.lower.size}: wrong robot?"
    distance, angle = geometry.errors(model.forward(state.joint_positions), state.pose)
    if distance > _MISFIT_M or angle > _MISFIT_RAD:
        off = f"{distance:.3f} m and {angle:.2f} rad"
        return f"the measured end effector is {off} from where the arm model has it: wrong robot?"
    return ""
