"""Forward and differential inverse kinematics of a described arm."""

from __future__ import annotations

import mink
import mujoco
import numpy as np

from openvla_ros.errors import KinematicsError
from openvla_ros.robots.description import RobotDescription
from openvla_ros.robots.model import LM_DAMPING, POSTURE_COST, kinematic_model, posture_gain
from openvla_ros.types import Array, Pose

POSITION_TOLERANCE = 1e-4  # [m]
ROTATION_TOLERANCE = 1e-3  # [rad]
LIMIT_SLACK = 0.05  # [rad] that a measured joint may lie beyond its limit
MAX_STEP = 0.3  # [rad] of any joint in one iteration, where the linear model still points the right way


class Kinematics:
    """Where the end effector is, and which joint positions bring it elsewhere. Base frame throughout.

    Joint arrays of a wrong shape raise ValueError; numbers that are not finite (a driver that lost a motor may report
    NaN) raise KinematicsError. What an arm is told comes from ``ArmModel.follow``, not from here. Not thread-safe: it
    works on one state.
    """

    def __init__(self, description: RobotDescription) -> None:
        self.description = description
        self._model = kinematic_model(description)
        self._configuration = mink.Configuration(self._model)
        self._site = self._model.site(description.end_effector_site).id
        self._lower, self._upper = description.lower, description.upper
        self._frame_task = mink.FrameTask(
            self._site, "site", position_cost=1.0, orientation_cost=1.0, lm_damping=LM_DAMPING
        )
        # keeps a redundant arm's elbow from drifting
        self._posture_task = mink.PostureTask(self._model, cost=POSTURE_COST)
        self._posture_task.set_target(description.pose("start"))
        self._limits: list[mink.Limit] = [mink.ConfigurationLimit(self._model, gain=1.0)]

    def forward(self, q: Array) -> Pose:
        """Pose of the end effector at joint positions q (n,) [rad]."""
        self._configuration.update(self._checked(q))
        return self._pose()

    def jacobian(self, q: Array) -> Array:
        """(6, n): end-effector velocity per joint velocity in base axes, linear [m] above angular [rad]."""
        self._configuration.update(self._checked(q))
        jacobian = np.zeros((6, self._model.nv))
        mujoco.mj_jacSite(self._model, self._configuration.data, jacobian[:3], jacobian[3:], self._site)
        return jacobian

    def twist(self, q: Array, qd: Array) -> tuple[Array, Array]:
        """Linear (3,) [m/s] and angular (3,) [rad/s] end-effector velocity in base axes."""
        velocity = self.jacobian(q) @ self._checked(qd)
        return velocity[:3], velocity[3:]

    def solve(self, target: Pose, q_seed: Array, max_iterations: int = 100) -> Array:
        """Joint positions (n,) [rad] that reach the target, on the solution branch of q_seed (n,) [rad].

        A seed up to LIMIT_SLACK beyond a joint limit (a sensor may read so) starts from the limit. The result lies
        within limits.
        Raises KinematicsError if the target is not met to POSITION_TOLERANCE and ROTATION_TOLERANCE.
        """
        self._set_target(target)
        q = self._within_limits(q_seed)
        self._configuration.update(q)
        self._posture_task.gain = posture_gain(*self._errors())
        tasks: list[mink.Task] = [self._frame_task, self._posture_task]
        for _ in range(max_iterations):  # at least once: small motions must not vanish in the tolerance
            q = np.clip(q + self._step(tasks), self._lower, self._upper)
            # The posture in the first step only: far from it, the second-order error of a step towards it exceeds the
            # tolerance, and the elbow would wander off in search of an end.
            tasks = [self._frame_task]
            self._configuration.update(q)
            if self._arrived():
                return q
        raise KinematicsError(self._shortfall(target, q))

    def _pose(self) -> Pose:
        data = self._configuration.data
        wxyz = np.empty(4)
        mujoco.mju_mat2Quat(wxyz, data.site_xmat[self._site])  # scipy takes ten times as long
        return Pose(data.site_xpos[self._site].copy(), wxyz[[1, 2, 3, 0]])

    def _set_target(self, target: Pose) -> None:
        self._checked_pose(target)
        wxyz = np.roll(target.rotation.as_quat(), 1)
        self._frame_task.set_target(mink.SE3(np.concatenate([wxyz, target.position])))

    def _step(self, tasks: list[mink.Task]) -> Array:
        """One differential step (n,) [rad] towards the frame task's target, no joint further than MAX_STEP."""
        try:
            step = mink.solve_ik(self._configuration, tasks, 1.0, solver="daqp", limits=self._limits, damping=1e-9)
        except mink.NoSolutionFound as error:
            q = np.round(self._configuration.q, 3).tolist()
            raise KinematicsError(f"the inverse kinematics solver found no step at joint positions {q}") from error
        return step * min(1.0, MAX_STEP / max(float(np.abs(step).max()), 1e-12))

    def _errors(self) -> tuple[float, float]:
        """[m] and [rad] to the frame task's target."""
        error = self._frame_task.compute_error(self._configuration)
        return float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:]))

    def _arrived(self) -> bool:
        distance, angle = self._errors()
        return distance < POSITION_TOLERANCE and angle < ROTATION_TOLERANCE

    def _shortfall(self, target: Pose, q: Array) -> str:
        translation, rotvec = self._pose().motion_to(target)
        left = f"{np.linalg.norm(translation) * 1e3:.1f} mm and {np.degrees(np.linalg.norm(rotvec)):.1f} deg"
        at_limit = (q <= self._lower + 1e-3) | (q >= self._upper - 1e-3)
        stuck = [n for n, hit in zip(self.description.joint_names, at_limit, strict=True) if hit]
        limits = f", with {', '.join(stuck)} at a joint limit" if stuck else ""
        goal = np.round(target.position, 3).tolist()
        return f"target at {goal} m is not reachable: {self.description.name} stays {left} away{limits}"

    def _checked(self, q: Array) -> Array:
        q = np.asarray(q, dtype=np.float64)
        if q.shape != (self._model.nv,):
            raise ValueError(f"{q.tolist()} are not {self._model.nv} numbers, for {self.description.joint_names}")
        if not np.isfinite(q).all():
            raise KinematicsError(f"joint values are not finite: {q.tolist()} of {self.description.joint_names}")
        return q

    def _within_limits(self, q: Array) -> Array:
        q = self._checked(q)
        inside = np.clip(q, self._lower, self._upper)
        beyond = np.abs(q - inside)
        worst = int(np.argmax(beyond))
        if beyond[worst] > LIMIT_SLACK:
            joint = self.description.joints[worst]
            span = f"{joint.lower:.3f} .. {joint.upper:.3f}"
            raise KinematicsError(f"{joint.name} is at {q[worst]:.3f} rad, outside {span}: move the arm back")
        return inside

    @staticmethod
    def _checked_pose(pose: Pose) -> None:
        if not (np.isfinite(pose.position).all() and np.isfinite(pose.quaternion).all()):
            raise KinematicsError(f"the target is not finite: {pose}")
        if abs(np.linalg.norm(pose.quaternion) - 1.0) > 1e-3:
            raise KinematicsError(f"the target's quaternion is not of unit length: {pose.quaternion.tolist()}")
