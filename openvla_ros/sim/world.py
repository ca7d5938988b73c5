"""A MuJoCo world: an arm, attached to a scene of tabletop objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from openvla_ros.errors import ConfigError
from openvla_ros.paths import resource_file
from openvla_ros.robots.description import RobotDescription
from openvla_ros.robots.model import robot_spec
from openvla_ros.types import Array, Pose

PLACE_LOWER, PLACE_UPPER = np.array([0.20, -0.15]), np.array([0.36, 0.17])  # where objects are put, x and y [m]
MAX_YAW = 0.2  # [rad] that an object is turned: about square, as the scripted expert's hand stays
SETTLE_STEPS = 50
MAX_TRIES = 1000


@dataclass(frozen=True, slots=True)
class JointReading:
    """What the arm's driver reports: names, and per joint position, velocity, effort (m,) [rad or m, /s, N m or N]."""

    names: tuple[str, ...]
    positions: Array
    velocities: Array
    efforts: Array


class World:
    """Arm and objects under physics, driven by joint position targets. The base frame is the world frame.

    scene: a name in resource/scenes or an MJCF file. Bodies named COLOUR_block and plate are its objects.
    """

    def __init__(self, scene: str | Path, robot: RobotDescription, seed: int = 0) -> None:
        self.robot = robot
        self.model = _load(scene, robot)
        self.data = mujoco.MjData(self.model)
        self._arm_qpos, self._arm_dofs = self._addresses(robot.joint_names)
        self._arm_motors = [self.model.actuator(name).id for name in robot.joint_names]
        self._finger_qpos, self._finger_dofs = self._addresses([f.name for f in robot.gripper.fingers])
        self._gripper_motors = [self.model.actuator(name).id for name in robot.gripper.command_joints]
        self._reading, self._reading_names = self._joint_state_layout()
        self._finger_bodies = {int(self.model.joint(f.name).bodyid[0]) for f in robot.gripper.fingers}
        bodies = [self.model.body(i).name for i in range(self.model.nbody)]
        self.objects = tuple(b for b in bodies if b.endswith("_block") or b == "plate")
        self.reset(seed)

    @property
    def timestep(self) -> float:
        """[s] of one ``step``."""
        return float(self.model.opt.timestep)

    @property
    def time(self) -> float:
        """[s] since the last reset."""
        return float(self.data.time)

    def reset(self, seed: int) -> None:
        """Arm at rest in its start pose, gripper open, objects at random places that the seed alone decides."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self._arm_qpos] = self.robot.pose("start")
        self.data.qpos[self._finger_qpos] = [f.open for f in self.robot.gripper.fingers]
        self.set_arm_target(self.robot.pose("start"))
        self.set_gripper_target(1.0)
        self._place_objects(np.random.default_rng(seed))
        for _ in range(SETTLE_STEPS):
            self.step()
        self.data.time = 0.0

    def step(self) -> None:
        """Advance physics by one timestep."""
        mujoco.mj_step(self.model, self.data)

    def places(self) -> Array:
        """(k,) where everything is, for ``show`` of another world of the same scene and robot."""
        return self.data.qpos.copy()

    def show(self, places: Array) -> None:
        """Put everything where another world had it, to look at; nothing moves on from there."""
        self.data.qpos[:] = places
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def arrange(self, q: Array, opening: float, objects: Mapping[str, Pose]) -> None:
        """Put arm (n,) [rad], gripper 0..1 and objects somewhere, to look at; whether they touch is not asked."""
        self.data.qpos[self._arm_qpos] = q
        fingers = self.robot.gripper.fingers
        self.data.qpos[self._finger_qpos] = [f.closed + opening * (f.open - f.closed) for f in fingers]
        for name, pose in objects.items():
            address = self._address(name)
            self.data.qpos[address : address + 3] = pose.position
            self.data.qpos[address + 3 : address + 7] = np.roll(pose.quaternion, 1)
        self.show(self.places())

    def set_arm_target(self, q: Array) -> None:
        """Joint positions (n,) [rad] that the motors pull to, held within joint limits as the real motors do.

        Raises ValueError on a wrong shape or NaN: np.clip would let NaN through to the physics.
        """
        q = np.asarray(q, dtype=np.float64)
        if q.shape != (len(self._arm_motors),) or not np.isfinite(q).all():
            raise ValueError(f"{q.tolist()} must be finite positions of {self.robot.joint_names}")
        self.data.ctrl[self._arm_motors] = np.clip(q, self.robot.lower, self.robot.upper)

    def set_gripper_target(self, opening: float) -> None:
        """0 closed .. 1 open. Raises ValueError outside, NaN included."""
        self.data.ctrl[self._gripper_motors] = self.robot.gripper.command(opening)

    def arm_positions(self) -> Array:
        """Measured joint positions (n,) [rad]."""
        return self.data.qpos[self._arm_qpos].copy()

    def joint_state(self) -> JointReading:
        """Arm joints, then the gripper's motor where it has one, then fingers: as the real driver's joint_states."""
        qpos, dofs = self._reading
        positions, velocities, efforts = self.data.qpos[qpos], self.data.qvel[dofs], self.data.qfrc_actuator[dofs]
        linkage = self.robot.gripper.linkage
        if linkage is not None:
            n = len(self._arm_qpos)  # there, a finger's values hold the motor's place
            positions[n] = linkage.angle(float(positions[n]))
            # the motor's own speed and torque are not simulated; like the driver's for the fingers, they read zero
            velocities[n] = efforts[n] = 0.0
        return JointReading(self._reading_names, positions, velocities, efforts)

    def pose(self, name: str) -> Pose:
        """Pose of an object in the base frame. Raises ConfigError for an unknown one."""
        if name not in self.objects:
            raise ConfigError(f"the scene has no object {name!r}; it has {list(self.objects)}")
        body = self.data.body(name)
        return Pose(body.xpos.copy(), body.xquat[[1, 2, 3, 0]])

    def blocks(self) -> dict[str, Pose]:
        """Pose of each block in the base frame, by colour."""
        return {name.removesuffix("_block"): self.pose(name) for name in self.objects if name != "plate"}

    def touching(self, a: str, b: str) -> bool:
        """Whether two bodies, by MJCF name, are in contact."""
        return self.model.body(b).id in self._contacts(self.model.body(a).id)

    def fingers_touching(self, name: str) -> int:
        """How many fingers are in contact with an object."""
        return len(self._finger_bodies & self._contacts(self.model.body(name).id))

    def _contacts(self, body: int) -> set[int]:
        """Ids of the bodies in contact with a body."""
        pairs = self.model.geom_bodyid[self.data.contact.geom].reshape(-1, 2)
        return set(pairs[(pairs == body).any(axis=1)].ravel().tolist()) - {body}

    def _place_objects(self, rng: np.random.Generator) -> None:
        """Rejection sampling of places that do not overlap and leave the open gripper room around each block."""
        for _ in range(MAX_TRIES):
            spots = rng.uniform(PLACE_LOWER, PLACE_UPPER, (len(self.objects), 2))
            yaws = rng.uniform(-MAX_YAW, MAX_YAW, len(self.objects))
            if self._apart(spots):
                break
        else:
            raise ConfigError(f"no room for {len(self.objects)} objects between {PLACE_LOWER} and {PLACE_UPPER}")
        for name, spot, yaw in zip(self.objects, spots, yaws, strict=True):
            address = self._address(name)
            height = self.data.qpos[address + 2]  # the scene file puts it on the table
            self.data.qpos[address : address + 3] = [*spot, height]
            self.data.qpos[address + 3 : address + 7] = np.roll(Rotation.from_euler("z", yaw).as_quat(), 1)

    def _address(self, name: str) -> int:
        """Where an object's place begins in the physics' state."""
        return int(self.model.jnt_qposadr[self.model.body(name).jntadr[0]])

    def _apart(self, spots: Array) -> bool:
        for i, a in enumerate(self.objects):
            for j, b in enumerate(self.objects[:i]):
                clearance = 0.115 if "plate" in (a, b) else 0.075  # [m] between centres
                if np.linalg.norm(spots[i] - spots[j]) < clearance:
                    return False
        return True

    def _joint_state_layout(self) -> tuple[tuple[Array, Array], tuple[str, ...]]:
        """Where in the physics' state the joint state's numbers lie, and their names."""
        names = [f.name for f in self.robot.gripper.fingers]
        fingers = [*range(len(names))]
        linkage = self.robot.gripper.linkage
        if linkage is not None:
            names, fingers = [linkage.joint, *names], [0, *fingers]
        qpos = np.concatenate([self._arm_qpos, self._finger_qpos[fingers]])
        dofs = np.concatenate([self._arm_dofs, self._finger_dofs[fingers]])
        return (qpos, dofs), (*self.robot.joint_names, *names)

    def _addresses(self, joints: tuple[str, ...] | list[str]) -> tuple[Array, Array]:
        ids = [self.model.joint(name).id for name in joints]
        return self.model.jnt_qposadr[ids], self.model.jnt_dofadr[ids]


def _load(scene: str | Path, robot: RobotDescription) -> mujoco.MjModel:
    path = Path(scene)
    if path.suffix != ".xml":
        path = resource_file("scenes", f"{scene}.xml")
    if not path.is_file():
        known = sorted(p.stem for p in resource_file("scenes").glob("*.xml"))
        raise ConfigError(f"no scene {str(scene)!r}: give one of {known}, or the path of an MJCF file")
    try:
        return robot_spec(robot, path).compile()
    except ValueError as error:
        raise ConfigError(f"scene {path} with robot {robot.name} is not a valid MuJoCo model: {error}") from error
