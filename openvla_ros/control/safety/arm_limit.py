"""The limit that narrows a motion until the arm's joints can carry it out and no arm rule objects.

The arm driver follows the straight line from where its joints are commanded to be, to the target. So does this: every
motion is judged by its joint path, and what is passed on can be carried out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from openvla_ros import geometry
from openvla_ros.control.safety.arm import ArmModel, JointPath, Posture
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import ArmRule, Context, Motion, Objection
from openvla_ros.types import Array, RuleReport

_SPACING_M, _SPACING_RAD = 0.02, 0.1  # between two samples of a path
_WAYPOINT_S = 0.04  # between two samples of a path with fast joints: as the arm driver's waypoints
_FAST = 0.5  # share of a joint's speed limit
_NEGLIGIBLE = 0.01  # share of the largest step below which a search is not worth its time
# Of x y z and the rotation about them: what is lengthened together, and the halvings of each search. What they leave is
# what the next action goes on with; each costs a joint path.
_SEARCHES = ((range(6), 6), (range(3), 2), (range(3, 6), 2), *(([i], 2) for i in range(6)))

_Objections = dict[str, tuple[Objection, JointPath]]  # by code: the first one, and the path that it is against


class ArmLimit:
    """Asks the arm rules, and narrows a motion until none objects.

    Translation and rotation are scaled together; then each is lengthened again as far as it goes, and then each of
    their components along the base axes: along a joint's limit, a table or another link the arm slides. Nothing is
    ever longer than what was asked, and only what the rules have seen and allowed is passed on.
    """

    def __init__(self, config: SafetyConfig, model: ArmModel, rules: Sequence[ArmRule]) -> None:
        self._model = model
        self._rules = rules
        self._max_lag = config.joints.max_lag_rad
        self._cutoff = config.collision.self_slow_down_m
        self._negligible = _NEGLIGIBLE * np.repeat([config.motion.max_step_m, config.motion.max_step_rad], 3)
        self._paths: _Paths | None = None

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        if not (motion.translation.any() or motion.rotvec.any()):
            return motion, []  # staying is always allowed
        asked = self.path(motion, context)
        objections = {o.code: (o, asked) for rule in self._rules if (o := rule(asked, context)) is not None}
        if not objections:
            return motion, []
        motion = self._narrowed(motion, context, objections)
        allowed = self.path(motion, context)
        return motion, [
            RuleReport(o.code, o.detail, o.measure(path), o.measure(allowed), o.limit)
            for o, path in objections.values()
        ]

    def path(self, motion: Motion, context: Context) -> JointPath:
        """What a motion means for the joints."""
        if self._paths is None or self._paths.context is not context:
            self._paths = _Paths(context, self._model, self._joints_now(context), self._cutoff)
        return self._paths.of(motion)

    def _joints_now(self, context: Context) -> Array:
        """(n,) where the driver's joints are commanded to be: along the last path, or measured where there is none."""
        assert context.arm is not None  # the freshness gate comes first
        measured = context.arm.joint_positions
        if context.accepted is None or context.accepted.joints is None:
            return measured
        commanded = context.accepted.joints.at(context.now - context.accepted.at)
        lag = measured - commanded
        if abs(lag).max() > self._max_lag:
            return measured
        # The elbow of a redundant arm is where the driver's solver has brought it: ours must not drift away from that.
        return commanded + self._model.redundant_part(commanded, lag)

    def _is_allowed(self, motion: Motion, context: Context, objections: _Objections) -> bool:
        path = self.path(motion, context)
        for rule in self._rules:
            objection = rule(path, context)
            if objection is not None:
                objections.setdefault(objection.code, (objection, path))
                return False
        return True

    def _narrowed(self, motion: Motion, context: Context, objections: _Objections) -> Motion:
        """The longest motion that is found; adds to ``objections`` what else stood in the way."""
        asked = np.concatenate([motion.translation, motion.rotvec])
        done = np.zeros(6)
        best = motion.with_vectors(done[:3], done[3:])
        for group, halvings in _SEARCHES:
            gap = np.zeros(6)
            gap[group] = asked[group] - done[group]
            if (abs(gap) <= self._negligible).all():
                continue
            low, high = 0.0, 1.0
            share = 0.5 if len(group) == 6 else 1.0  # that all of it is too much is known
            for _ in range(halvings):
                trial = done + share * gap
                candidate = motion.with_vectors(trial[:3], trial[3:])
                if self._is_allowed(candidate, context, objections):
                    low, best = share, candidate
                else:
                    high = share
                if low == 1.0:
                    break
                share = (low + high) / 2
            done = done + low * gap
        return best


class _Paths:
    """The joint paths of motions in one situation, each found once: the search asks again, and so does the filter."""

    def __init__(self, context: Context, model: ArmModel, q_start: Array, cutoff: float) -> None:
        self.context = context
        self._model = model
        self._cutoff = cutoff
        self._start = Posture(model, q_start, cutoff)
        self._here = model.forward(q_start)
        self._known: list[tuple[Motion, JointPath]] = []

    def of(self, motion: Motion) -> JointPath:
        for known, path in self._known:
            if known is motion:
                return path
        path = self._plan(motion)
        self._known.append((motion, path))
        return path

    def _plan(self, motion: Motion) -> JointPath:
        start, target = self._start, motion.target()
        distance, angle = geometry.errors(self._here, target)
        count = max(1, math.ceil(max(distance / _SPACING_M, angle / _SPACING_RAD)))
        finer = math.ceil(motion.duration / _WAYPOINT_S)
        if len(start.q) > 6:
            count = max(count, finer)  # where the elbow goes depends on the waypoints
        positions = self._model.path(start.q, target, count)
        if positions is not None and finer > count and self._is_fast(positions, motion.duration / count):
            positions = self._model.path(start.q, target, finer)
        if positions is None:
            return JointPath(np.stack([start.q, start.q]), motion.duration, (start, start), reached=False)
        postures = (Posture(self._model, q, self._cutoff) for q in positions[1:])
        return JointPath(positions, motion.duration, (start, *postures), reached=True)

    def _is_fast(self, positions: Array, step_time: float) -> bool:
        """Whether a joint's speed may matter, and with it how it changes along the path."""
        return bool((abs(np.diff(positions, axis=0)) > _FAST * step_time * self._model.max_velocity).any())
