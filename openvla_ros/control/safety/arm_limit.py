"""The limit that narrows a motion until the arm's joints can carry it out and no arm rule objects.

Every motion is judged by the joint path that it leads to, from where the arm's reference will be when it takes effect.
That path travels in the command, and the driver executes it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from openvla_ros.control.safety.arm import ArmModel, JointPath, Posture
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.course import Course
from openvla_ros.control.safety.motion import ArmRule, Context, Motion, Objection
from openvla_ros.types import Array, RuleReport

_SPACING_M, _SPACING_RAD, _SPACING_S = 0.02, 0.1, 0.2  # between two points of a path
_NEAREST_S = 0.008  # between two points: joints are solved to a tolerance, which a cubic between near ones enlarges
_FINE_S = 0.04  # of a path with fast joints
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
        self._cutoff = max(config.collision.self_slow_down_m, config.collision.obstacle_slow_down_m)
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
            self._paths = _Paths(context, self._model, self._cutoff)
        return self._paths.of(motion)

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

    def __init__(self, context: Context, model: ArmModel, cutoff: float) -> None:
        self.context = context
        self._model = model
        self._cutoff = cutoff
        q, self._velocity = self._told(context)
        self._start = Posture(model, q, cutoff)
        self._known: list[tuple[Motion, JointPath]] = []
        self._remainder: JointPath | None = None

    def of(self, motion: Motion) -> JointPath:
        for known, path in self._known:
            if known is motion:
                return path
        before = self.context.course(motion)
        path = self._plan(before.then(motion.step()), lambda: self._rest_of(before))
        self._known.append((motion, path))
        return path

    @staticmethod
    def _told(context: Context) -> tuple[Array, Array]:
        """(n,) and (n,): the reference's positions and velocities when the motion takes effect."""
        if context.accepted is not None and context.accepted.trajectory is not None:
            return context.accepted.trajectory.at(context.start)
        assert context.arm is not None  # the freshness gate comes first
        q = context.arm.joint_positions if context.rest is None else context.rest
        return q, np.zeros_like(q)

    def _rest_of(self, before: Course) -> JointPath | None:
        if self._remainder is None and before.end > self.context.start:
            self._remainder = self._plan(before, lambda: None)
        return self._remainder

    def _plan(self, course: Course, remainder: Callable[[], JointPath | None]) -> JointPath:
        start, begin = self._start, self.context.start
        moves = any(step.translation.any() or step.rotvec.any() for step in course.steps)
        times = _points(course, begin, _SPACING_S) if moves else np.array([begin, course.end])
        found = self._follow(course, times) if moves else (np.stack([start.q, start.q]), np.zeros((2, len(start.q))))
        if found is not None and moves and self._is_fast(found[0], times):
            times = _points(course, begin, _FINE_S)
            found = self._follow(course, times)
        if found is None:
            stays, still = np.stack([start.q, start.q]), np.zeros((2, len(start.q)))
            ends = np.array([begin, max(course.end, begin + _FINE_S)])
            return JointPath(ends, stays, still, (start, start), False, remainder)
        postures = (Posture(self._model, q, self._cutoff) for q in found[0][1:])
        return JointPath(times, *found, (start, *postures), True, remainder)

    def _follow(self, course: Course, times: Array) -> tuple[Array, Array] | None:
        """Joint positions and velocities, (k + 1, n) each, at times (k + 1,)."""
        later, q = times[1:], self._start.q
        found = self._model.follow(q, course.positions(later), course.quaternions(later), course.twists(later))
        if found is None:
            return None
        positions, velocities = np.vstack([q, found[0]]), np.vstack([self._velocity, found[1]])
        if self._model.redundant:  # its elbow moves without the end effector, too
            turning = (positions[2:] - positions[:-2]) / (times[2:] - times[:-2])[:, None]
            for i, speed in enumerate(turning, 1):
                velocities[i] += self._model.null_space(positions[i], speed)
        return positions, velocities

    def _is_fast(self, positions: Array, times: Array) -> bool:
        """Whether a joint's speed may matter, and with it how it changes along the path."""
        speeds = abs(np.diff(positions, axis=0)) / np.diff(times)[:, None]
        return bool((speeds > _FAST * self._model.max_velocity).any())


def _apart(moments: Array) -> Array:
    """Of moments (m,) [s] those that are not too near to each other; the first and the last stay."""
    kept = [float(moments[0])]
    for moment in moments[1:].tolist():
        if moment - kept[-1] >= _NEAREST_S:
            kept.append(moment)
    if kept[-1] < moments[-1]:
        kept[max(len(kept) - 1, 1) :] = [float(moments[-1])]
    return np.array(kept)


def _points(course: Course, start: float, longest: float) -> Array:
    """(k + 1,) [s] from ``start`` to the end: where the acceleration changes, and between as the way asks for."""
    changes = _apart(course.changes(start))
    ways, rates = course.positions(changes), course.velocities((changes[1:] + changes[:-1]) / 2)[1]
    gaps = np.diff(changes)
    counts = np.maximum(
        np.sqrt((np.diff(ways, axis=0) ** 2).sum(axis=1)) / _SPACING_M,
        np.maximum(np.sqrt((rates**2).sum(axis=1)) * gaps / _SPACING_RAD, gaps / longest),
    )
    spans = zip(changes[:-1], gaps, np.maximum(np.ceil(counts - 1e-6), 1).astype(int).tolist(), strict=True)
    inner = [begin + gap * np.arange(n) / n for begin, gap, n in spans]
    return np.concatenate([*inner, changes[-1:]])
