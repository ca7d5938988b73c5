"""The arm behind the end effector: what the safety filter asks of a model of it, and the joint path of a motion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from openvla_ros import geometry
from openvla_ros.types import ArmState, Array, Pose

AXES = "xyz"
_MISFIT_M, _MISFIT_RAD = 0.01, 0.05  # between measured pose and measured joints, where model and arm are the same


class ArmModel(Protocol):
    """The arm as robots.arm_model.ArmModel knows it. Joint arrays are (n,) [rad], in the robot description's order."""

    joint_names: tuple[str, ...]
    lower: Array
    upper: Array
    max_velocity: Array
    pair_names: tuple[str, ...]
    link_names: tuple[str, ...]

    @property
    def reach(self) -> float:
        """[m] that the end effector gets away from the base frame's origin."""
        ...

    def forward(self, q: Array) -> Pose: ...

    def path(self, q_start: Array, target: Pose, count: int) -> Array | None:
        """(count + 1, n) along the straight line to ``target``, q_start first; None where there are none."""
        ...

    def redundant_part(self, q: Array, offset: Array) -> Array:
        """(n,) the part of a joint offset that does not move the end effector."""
        ...

    def smallest_singular_value(self, q: Array) -> float: ...

    def distances(self, q: Array, cutoff: float) -> Array:
        """(len(pair_names),) [m] between links, at most ``cutoff``."""
        ...

    def heights(self, q: Array) -> Array:
        """(len(link_names),) [m] of links above the base frame's origin."""
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
    def heights(self) -> Array:
        return self._model.heights(self.q)


@dataclass(frozen=True, slots=True)
class JointPath:
    """Joint positions (k + 1, n) at even times over ``duration`` [s]; the first where the arm is commanded to be now.

    ``postures``: the same, one by one. Not ``reached``: no joint positions lead to the target, and this stays.
    """

    positions: Array
    duration: float
    postures: tuple[Posture, ...]
    reached: bool

    @property
    def step_time(self) -> float:
        return self.duration / (len(self.positions) - 1)

    def at(self, elapsed: float) -> Array:
        """(n,) so many seconds after the start."""
        place = min(max(elapsed / self.step_time, 0.0), len(self.positions) - 1.0)
        before = min(int(place), len(self.positions) - 2)
        start, end = self.positions[before], self.positions[before + 1]
        return start + (place - before) * (end - start)


class Approach:
    """The band before a limit, for values that must not fall below ``stop``.

    Within it a value may fall no faster than (value - stop) / approach_s: the limit is neared ever more slowly and
    never passed. Rising is free, also from below it.
    """

    def __init__(self, slow_down: float, stop: float, approach_s: float) -> None:
        self._slow_down, self._stop, self._time = slow_down, stop, approach_s

    def excess(self, before: Array, after: Array, time: float) -> Array:
        """How much too far each value falls within ``time`` [s]; not above 0: allowed. Arrays of one shape."""
        falls = np.minimum(before, self._slow_down) - after  # what is above the band does not count
        most = np.maximum(after - self._stop, 0.0) * (time / self._time)
        return np.where((after >= self._slow_down) | (falls <= 1e-9), 0.0, falls - most)


def arm_model_problem(state: ArmState, model: ArmModel) -> str:
    """Why a measured state cannot be of this arm; empty if it can."""
    if state.joint_positions.shape != model.lower.shape:
        return f"{state.joint_positions.size} joints were measured, the arm model has {model.lower.size}: wrong robot?"
    distance, angle = geometry.errors(model.forward(state.joint_positions), state.pose)
    if distance > _MISFIT_M or angle > _MISFIT_RAD:
        off = f"{distance:.3f} m and {angle:.2f} rad"
        return f"the measured end effector is {off} from where the arm model has it: wrong robot?"
    return ""
