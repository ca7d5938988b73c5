"""The arm as the safety filter asks about it: joint paths, singularities, distances. Fast, on MuJoCo alone.

Its joint paths are what the arm driver executes. Written apart from ``Kinematics``, which the tests hold it against.
"""

from __future__ import annotations

from functools import cached_property, partial
from itertools import combinations

import mujoco
import numpy as np

from openvla_ros.errors import ConfigError
from openvla_ros.robots.description import RobotDescription
from openvla_ros.robots.model import LM_DAMPING, POSTURE_COST, kinematic_model, posture_gain
from openvla_ros.robots.shapes import BOX, CAPSULE, CYLINDER, SPHERE, Shapes
from openvla_ros.types import Array, Pose

_WXYZ, _XYZW = [3, 0, 1, 2], [1, 2, 3, 0]  # MuJoCo's order of a quaternion from ours, and back
_ITERATIONS = 8  # of one waypoint; two are usual
_POSITION_TOLERANCE, _ROTATION_TOLERANCE = 1e-5, 1e-4  # [m], [rad]
_UNIT = np.eye(6).ravel()
_DAMPING = 1e-7 * _UNIT  # keeps the step finite at a singularity, too small to slow it anywhere else
_MAX_STEP = 0.5  # [rad] of any joint in one iteration
_POSTURES = 5000  # tried to find the reach
_OBSTACLE, _HELD = "obstacle", "held object"  # names of what is put into the model
_GRIP = 0.01  # [m] that a held object reaches back from the end effector's point, at least
_THIN = 1e-3  # [m] radius of the thinnest held object

Boxes = tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]  # (lower, upper) corners [m]


class ArmModel:
    """``control.safety.arm.ArmModel`` of a described arm. Base frame throughout; joints in the description's order.

    Shapes that collide are the model's geoms with a contype or conaffinity, fingers open: spheres, capsules, cylinders
    and boxes. Links joined by one joint are not compared, nor those that the description's touching_links names.
    Not thread-safe: it works on one state.
    """

    def __init__(self, robot: RobotDescription, boxes: Boxes = (), held: tuple[Array, float] | None = None) -> None:
        """``boxes`` and ``held``, an object in the hand: see ``among``, which makes such a model."""
        self._robot = robot
        self._among: tuple[tuple[Boxes, float, float], ArmModel] | None = None  # the last one that was made
        self.joint_names = robot.joint_names
        self.lower, self.upper, self.max_velocity = robot.lower, robot.upper, robot.max_velocity
        self._model = kinematic_model(robot, fingers=1.0, add=partial(_put_in, robot, boxes, held))
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site(robot.end_effector_site).id
        self._posture = robot.pose("start")
        self.redundant = len(self.lower) > 6
        self._jacobian = np.zeros((6, self._model.nv))
        # What MuJoCo's functions write to; numpy's would cost most of a path's time.
        self._goal, self._now, self._turn, self._error = np.zeros(4), np.zeros(4), np.zeros(3), np.zeros(6)
        self._gram, self._solution, self._step = np.zeros((6, 6)), np.zeros(6), np.zeros(self._model.nv)
        shapes = [i for i in range(self._model.ngeom) if self._model.geom_contype[i] or self._model.geom_conaffinity[i]]
        self._check_shapes(robot, shapes)
        self._pairs = self._pairs_of(robot, shapes)
        self.pair_names = tuple(f"{self._link(a)} and {self._link(b)}" for a, b in self._pairs)
        first, second = np.array(self._pairs, dtype=int).reshape(-1, 2).T
        self._first, self._second = first, second
        self._near = self._model.geom_rbound[first] + self._model.geom_rbound[second]
        # What hangs on the base without a joint stands on the table for good.
        links = [i for i in shapes if self._weld(i) != 0]
        self.link_names = (*map(self._link, links), *([_HELD] if held else []))
        self._moving = np.array([*links, *([self._model.geom(_HELD).id] if held else [])], dtype=int)
        self._shapes = Shapes(self._model, self._moving)
        self._obstacles = np.array([self._model.geom(f"{_OBSTACLE} {i}").id for i in range(len(boxes))], dtype=int)
        self._centres, self._halves = self._model.geom_pos[self._obstacles], self._model.geom_size[self._obstacles]
        self._rims = self._model.geom_rbound[self._moving][:, None]

    def among(self, boxes: Boxes, held_ahead: float = 0.0, held_aside: float = 0.0) -> ArmModel:
        """This arm among ``boxes`` (lower, upper) [m], with an object in its hand, in a model of its own.

        The object is a cylinder around the hand's axis, which leads from the last joint's body to the end effector's
        point: from there to ``held_ahead`` [m] beyond the fingertips, ``held_aside`` [m] in radius. Both 0: none.
        It counts as a moving shape, but is not compared with links. The last model is kept: asking again is cheap.
        """
        key = (boxes, held_ahead, held_aside)
        if key == ((), 0.0, 0.0):
            return self
        if self._among is None or self._among[0] != key:
            held = self._held_object(held_ahead, held_aside) if held_ahead or held_aside else None
            self._among = key, ArmModel(self._robot, boxes, held)
        return self._among[1]

    @cached_property
    def reach(self) -> float:
        """[m] that the end effector gets away from the base frame's origin: the best of random postures, plus 3 %."""
        postures = np.random.default_rng(0).uniform(self.lower, self.upper, (_POSTURES, len(self.lower)))
        return 1.03 * max(float(np.linalg.norm(self.forward(q).position)) for q in postures)

    def forward(self, q: Array) -> Pose:
        """Pose of the end effector at joint positions q (n,) [rad]."""
        self._place(q)
        mujoco.mju_mat2Quat(self._now, self._data.site_xmat[self._site])
        return Pose(self._data.site_xpos[self._site].copy(), self._now[_XYZW])

    def follow(self, q_start: Array, points: Array, quaternions: Array, twists: Array) -> tuple[Array, Array] | None:
        """Joint positions and velocities, (k, n) each [rad], [rad/s], at poses one after another, from q_start (n,).

        points (k, 3) [m], quaternions (k, 4) x y z w; twists (k, 6): linear [m/s] and angular [rad/s] velocity there.
        Newton's method from each pose to the next. Not held within joint limits: whoever asks judges that. None where
        it does not converge.
        """
        self._place(q_start)
        positions, velocities = np.empty((len(points), len(q_start))), np.empty((len(points), len(q_start)))
        q = q_start
        for i, (point, quaternion) in enumerate(zip(points, quaternions[:, _WXYZ], strict=True)):
            self._goal[:] = quaternion
            found = self._solve(q, point)
            if found is None:
                return None
            positions[i] = q = found
            self._error[:] = twists[i]
            velocities[i] = self._step_towards(_DAMPING)
        return positions, velocities

    def null_space(self, q: Array, offset: Array) -> Array:
        """(n,) the part of joint velocities ``offset`` (n,) at q (n,) that does not move the end effector."""
        if not self.redundant:
            return np.zeros_like(q)
        self._place(q)
        jacobian = self._take_jacobian()
        return offset - np.linalg.pinv(jacobian) @ (jacobian @ offset)

    def smallest_singular_value(self, q: Array) -> float:
        """Of the Jacobian in m and rad at q (n,): the end effector's speed in its worst direction, per joint speed."""
        self._place(q)
        return float(np.linalg.svd(self._take_jacobian(), compute_uv=False)[-1])

    def distances(self, q: Array, cutoff: float) -> Array:
        """(len(pair_names),) [m] between links at q (n,), negative where they overlap, at most ``cutoff``."""
        self._place(q)
        places = self._data.geom_xpos
        apart = places[self._first] - places[self._second]
        far = (apart * apart).sum(axis=1) >= (self._near + cutoff) ** 2
        found = np.full(len(far), cutoff)
        for i in np.flatnonzero(~far).tolist():
            a, b = self._pairs[i]
            found[i] = mujoco.mj_geomDistance(self._model, self._data, a, b, cutoff, None)
        return found

    def heights(self, q: Array) -> Array:
        """(len(link_names),) [m] of each link's lowest point at q (n,) above the base frame's origin."""
        return self.extents(q)[0][:, 2]

    def extents(self, q: Array) -> tuple[Array, Array]:
        """(len(link_names), 3) twice [m]: the least and the greatest coordinates of each moving shape at q (n,)."""
        self._place(q)
        return self._shapes.extents(self._data)

    def corners(self, positions: Array) -> Array:
        """(len(link_names), m, 3, 8) [m]: x y z at positions (m, n) of corners of boxes around the moving shapes."""
        place, axis = self._data.geom_xpos, self._data.geom_xmat  # MuJoCo's own memory
        places, axes = np.empty((len(positions), *place.shape)), np.empty((len(positions), *axis.shape))
        for i, q in enumerate(positions):
            self._place(q)
            places[i], axes[i] = place, axis
        return self._shapes.placed_corners(places, axes)

    def obstacle_distances(self, q: Array, cutoff: float) -> Array:
        """(len(link_names), boxes) [m] of each moving shape at q (n,), negative where they overlap, at most ``cutoff``.

        Of the boxes that ``among`` was given, in their order.
        """
        self._place(q)
        apart = abs(self._data.geom_xpos[self._moving][:, None] - self._centres) - self._halves
        gaps = np.maximum(apart, 0.0)  # of the shape's centre
        far = (gaps * gaps).sum(axis=2) >= (self._rims + cutoff) ** 2
        found = np.full(far.shape, cutoff)
        for pair in np.flatnonzero(~far).tolist():
            i, j = divmod(pair, len(self._obstacles))
            shape, box = int(self._moving[i]), int(self._obstacles[j])
            found[i, j] = mujoco.mj_geomDistance(self._model, self._data, shape, box, cutoff, None)
        return found

    def _place(self, q: Array) -> None:
        self._data.qpos[:] = q
        mujoco.mj_kinematics(self._model, self._data)

    def _take_jacobian(self) -> Array:
        """(6, n) at the joint positions that were placed last. The same array each time."""
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._site)
        return self._jacobian

    def _solve(self, q: Array, point: Array) -> Array | None:
        """Joint positions (n,) at ``point`` (3,) and self._goal, from q, where the model is placed already."""
        data, error = self._data, self._error
        for i in range(_ITERATIONS):
            matrix = data.site_xmat[self._site]
            mujoco.mju_mat2Quat(self._now, matrix)
            mujoco.mju_subQuat(self._turn, self._goal, self._now)
            mujoco.mju_mulMatVec(error[3:], matrix.reshape(3, 3), self._turn)
            mujoco.mju_sub3(error[:3], point, data.site_xpos[self._site])
            distance, angle = mujoco.mju_norm3(error[:3]), mujoco.mju_norm3(error[3:])
            if i and distance < _POSITION_TOLERANCE and angle < _ROTATION_TOLERANCE:
                return q
            if i == 0 and self.redundant:
                step = self._first_step(q, posture_gain(distance, angle))
            else:
                step = self._step_towards(_DAMPING)
            largest = max(map(abs, step.tolist()))
            q = q + (step if largest <= _MAX_STEP else step * (_MAX_STEP / largest))
            self._place(q)
        return None

    def _step_towards(self, damping: Array) -> Array:
        """The least joint step (n,) that undoes self._error (6,). The same array each time."""
        jacobian = self._take_jacobian()
        mujoco.mju_mulMatMatT(self._gram, jacobian, jacobian)
        mujoco.mju_addTo(self._gram.reshape(-1), damping)
        mujoco.mju_cholFactor(self._gram, 0.0)
        mujoco.mju_cholSolve(self._solution, self._gram, self._error)
        mujoco.mju_mulMatTVec(self._step, jacobian, self._solution)
        return self._step

    def _first_step(self, q: Array, gain: float) -> Array:
        """Of a redundant arm, whose elbow tends to the start pose as in ``Kinematics.solve``: its tasks, solved."""
        error = self._error
        damping = LM_DAMPING * float(error @ error) + POSTURE_COST**2
        wander = (POSTURE_COST**2 / damping * gain) * (self._posture - q)
        error -= self._take_jacobian() @ wander
        return wander + self._step_towards(damping * _UNIT)

    def _check_shapes(self, robot: RobotDescription, shapes: list[int]) -> None:
        for i in shapes:
            if self._model.geom_type[i] not in (SPHERE, CAPSULE, CYLINDER, BOX):
                raise ConfigError(
                    f"robot {robot.name}: {self._link(i)} has a colliding shape that is no sphere, capsule, cylinder "
                    f"or box; put some around it in {robot.model}, and give the other contype and conaffinity 0"
                )

    def _held_object(self, ahead: float, aside: float) -> tuple[Array, float]:
        """Both ends (6,) [m] of a held object's axis, in the frame of the end effector site's body, and its radius."""
        self._place(self._posture)
        data, body = self._data, self._model.site_bodyid[self._site]
        hand = self._model.body_weldid[body]
        point = data.site_xpos[self._site]
        axis = point - data.xpos[hand]
        axis /= np.linalg.norm(axis)
        fixed = self._model.body_weldid[self._model.geom_bodyid[self._moving]] == hand
        tip = float((axis @ self.corners(self._posture[None])[fixed, 0] - axis @ point).max(initial=0.0))
        ends = point + np.outer([-max(tip, _GRIP), tip + ahead], axis)
        local = (ends - data.xpos[body]) @ data.xmat[body].reshape(3, 3)
        return local.ravel(), max(aside, _THIN)

    def _pairs_of(self, robot: RobotDescription, shapes: list[int]) -> list[tuple[int, int]]:
        """Pairs of geoms whose distance is to be watched."""
        weld_parent = self._model.body_weldid[self._model.body_parentid]
        bodies = {self._model.body(i).name for i in range(self._model.nbody)}
        touching = {frozenset(pair) for pair in robot.touching_links}
        unknown = set().union(*touching) - bodies
        if unknown:
            raise ConfigError(f"robot {robot.name}: touching_links names {sorted(unknown)}; there are {sorted(bodies)}")
        pairs = []
        for a, b in combinations(shapes, 2):
            first, second = self._weld(a), self._weld(b)
            joined = first == second or first == weld_parent[second] or second == weld_parent[first]
            if not joined and frozenset((self._link(a), self._link(b))) not in touching:
                pairs.append((a, b))
        return pairs

    def _weld(self, geom: int) -> int:
        """The body that a geom's body is fixed to."""
        return int(self._model.body_weldid[self._model.geom_bodyid[geom]])

    def _link(self, geom: int) -> str:
        return str(self._model.body(self._model.geom_bodyid[geom]).name)


def _put_in(robot: RobotDescription, boxes: Boxes, held: tuple[Array, float] | None, spec: mujoco.MjSpec) -> None:
    """Boxes around the arm and an object in its hand, which collide with nothing by themselves."""
    none = {"contype": 0, "conaffinity": 0, "mass": 0.0}
    for i, (lower, upper) in enumerate(np.array(boxes)):
        spec.worldbody.add_geom(
            name=f"{_OBSTACLE} {i}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=(lower + upper) / 2,
            size=(upper - lower) / 2,
            **none,
        )
    if held is not None:
        ends, radius = held
        hand = spec.site(robot.end_effector_site).parent
        hand.add_geom(name=_HELD, type=mujoco.mjtGeom.mjGEOM_CYLINDER, fromto=ends, size=[radius, 0, 0], **none)
