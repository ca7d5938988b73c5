"""What the package needs to know about an arm, read from config/robots/NAME.yaml and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from openvla_ros.errors import ConfigError
from openvla_ros.paths import config_file, resource_file
from openvla_ros.types import Array

FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Vector3 = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Joint(_Frozen):
    """One arm joint: limits [rad], max_velocity [rad/s], max_effort [N m]."""

    name: str = Field(min_length=1)
    lower: FiniteFloat
    upper: FiniteFloat
    max_velocity: Positive
    max_effort: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Joint:
        if self.lower >= self.upper:
            raise ValueError(f"lower {self.lower} must be below upper {self.upper}")
        return self


class Finger(_Frozen):
    """One finger joint: its position when the gripper is closed and when it is open [m]."""

    name: str = Field(min_length=1)
    closed: FiniteFloat
    open: FiniteFloat

    @model_validator(mode="after")
    def _moves(self) -> Finger:
        if self.closed == self.open:
            raise ValueError(f"closed and open are both {self.open}")
        return self

    def position(self, opening: float) -> float:
        """Joint position [m] of an opening in 0 (closed) .. 1 (open). Raises ValueError outside, NaN included."""
        if not 0.0 <= opening <= 1.0:
            raise ValueError(f"gripper opening is {opening}; allowed is 0 (closed) to 1 (open)")
        return self.closed + opening * (self.open - self.closed)

    def opening(self, position: float) -> float:
        """Opening of a measured joint position [m], not clipped: a sensor may read slightly past either end."""
        return (position - self.closed) / (self.open - self.closed)


class CrankLinkage(_Frozen):
    """The motor crank that drives both fingers: horn_radius and arm_length [m] of a slider-crank."""

    joint: str
    horn_radius: Positive
    arm_length: Positive

    def angle(self, finger_position: float) -> float:
        """Motor angle [rad] at a finger position [m] from the centre line, by the law of cosines."""
        r, a, x = self.horn_radius, self.arm_length, abs(finger_position)
        return float(np.pi / 2 - np.arccos(np.clip((r * r + x * x - a * a) / (2 * r * x), -1.0, 1.0)))


class Gripper(_Frozen):
    """A parallel gripper: max_velocity [m/s], max_effort [N] a finger. Its controller takes command_joints only."""

    fingers: tuple[Finger, ...] = Field(min_length=1)
    command_joints: tuple[str, ...] = Field(min_length=1)
    max_velocity: Positive
    max_effort: Positive
    linkage: CrankLinkage | None = None

    @model_validator(mode="after")
    def _command_joints_are_fingers(self) -> Gripper:
        unknown = set(self.command_joints) - {f.name for f in self.fingers}
        if unknown:
            raise ValueError(f"command_joints {sorted(unknown)} are not among the fingers")
        return self

    def command(self, opening: float) -> Array:
        """Positions (len(command_joints),) [m] of an opening in 0..1. Raises ValueError outside, NaN included."""
        by_name = {f.name: f for f in self.fingers}
        return np.array([by_name[name].position(opening) for name in self.command_joints])

    def opening(self, positions: dict[str, float]) -> float:
        """Mean opening of the fingers whose positions [m] are given by name, clipped to 0..1; NaN stays NaN.

        Raises ValueError if none of them is a finger of this gripper.
        """
        known = [f.opening(positions[f.name]) for f in self.fingers if f.name in positions]
        if not known:
            raise ValueError(
                f"no finger position among {sorted(positions)}; needed is {[f.name for f in self.fingers]}"
            )
        return float(np.clip(np.mean(known), 0.0, 1.0))


class WorkspaceBox(_Frozen):
    """Box for the end-effector position in the base frame [m]."""

    lower: Vector3
    upper: Vector3

    @model_validator(mode="after")
    def _ordered(self) -> WorkspaceBox:
        for axis, low, high in zip("xyz", self.lower, self.upper, strict=True):
            if low >= high:
                raise ValueError(f"{axis}: lower {low} must be below upper {high}")
        return self


class Semantics(Protocol):
    """What a policy declares of its actions. Units and signs are resolved before: see openvla_ros.types.Action."""

    @property
    def frame(self) -> str: ...
    @property
    def kind(self) -> str: ...


class AcceptedActions(_Frozen):
    """What an action must be for this arm: the frame that it is expressed in, and the kind of motion."""

    frame: Literal["base"]
    kind: Literal["delta_end_effector"]


class CommandInterface(_Frozen):
    """How the arm's own driver is spoken to; topics are relative to the robot's namespace."""

    name: str  # one of openvla_ros/drive/interfaces, which says so where there is none of this name
    arm_topic: str
    gripper_topic: str
    joint_states_topic: str


class CartesianLimits(_Frozen):
    """Limits of the end effector: max_linear [m/s], max_angular [rad/s], and accelerations [m/s^2], [rad/s^2]."""

    max_linear: Positive
    max_angular: Positive
    max_linear_acceleration: Positive
    max_angular_acceleration: Positive


class RobotDescription(_Frozen):
    """An arm. Joint arrays everywhere in the package are (n,), in the order of ``joints``."""

    name: str
    base_frame: str
    model: Path  # MJCF, absolute; in YAML relative to resource/
    model_prefix: str = ""  # of the joint names here, which the model's lack: several arms may share a model
    end_effector_site: str
    joints: tuple[Joint, ...] = Field(min_length=1)
    gripper: Gripper
    poses: dict[str, tuple[FiniteFloat, ...]]
    touching_links: tuple[tuple[str, str], ...] = ()  # bodies of the model that touch by design: no collision
    workspace: WorkspaceBox
    cartesian_limits: CartesianLimits
    action: AcceptedActions
    interface: CommandInterface

    @field_validator("model", mode="before")
    @classmethod
    def _model_exists(cls, value: Any) -> Path:
        path = resource_file(str(value))  # an absolute path stays itself
        if not path.is_file():
            raise ValueError(f"{path} does not exist; give an MJCF file, relative to resource/ or absolute")
        return path

    @field_validator("poses")
    @classmethod
    def _poses_within_limits(
        cls, poses: dict[str, tuple[float, ...]], info: ValidationInfo
    ) -> dict[str, tuple[float, ...]]:
        joints: tuple[Joint, ...] = info.data.get("joints", ())
        if not joints:
            return poses  # already reported
        if "start" not in poses:
            raise ValueError("'start' is missing")
        for name, pose in poses.items():
            if len(pose) != len(joints):
                raise ValueError(f"{name} has {len(pose)} values for {len(joints)} joints")
            for joint, value in zip(joints, pose, strict=True):
                if not joint.lower <= value <= joint.upper:
                    raise ValueError(f"{name}: {joint.name} {value} is outside {joint.lower} .. {joint.upper}")
        return poses

    @model_validator(mode="after")
    def _names_are_unique(self) -> RobotDescription:
        names = [*self.joint_names, *(f.name for f in self.gripper.fingers)]
        if len(set(names)) != len(names):
            raise ValueError(f"joint names repeat: {names}")
        return self

    @property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(j.name for j in self.joints)

    @property
    def lower(self) -> Array:
        """(n,) [rad]."""
        return np.array([j.lower for j in self.joints])

    @property
    def upper(self) -> Array:
        """(n,) [rad]."""
        return np.array([j.upper for j in self.joints])

    @property
    def max_velocity(self) -> Array:
        """(n,) [rad/s]."""
        return np.array([j.max_velocity for j in self.joints])

    def require(self, semantics: Semantics) -> None:
        """Raises ConfigError, naming every difference, unless a policy's actions mean what this arm accepts."""
        wrong = [
            f"{field} is {getattr(semantics, field)!r}, {self.name} accepts {accepted!r}"
            for field, accepted in self.action.model_dump().items()
            if getattr(semantics, field) != accepted
        ]
        if wrong:
            raise ConfigError(f"the policy's actions do not fit the robot: {'; '.join(wrong)}")

    def pose(self, name: str) -> Array:
        """Joint positions (n,) [rad] of a stored pose. Raises ConfigError for an unknown name."""
        if name not in self.poses:
            raise ConfigError(f"{self.name} has no pose {name!r}; it has {sorted(self.poses)}")
        return np.array(self.poses[name])


def load_robot(name_or_path: str | Path) -> RobotDescription:
    """The robot of a name in config/robots/, or of a YAML file.

    Raises ConfigError naming each wrong field, or listing the robots there are.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = config_file("robots", f"{name_or_path}.yaml")
    if not path.is_file():
        known = sorted(p.stem for p in config_file("robots").glob("*.yaml"))
        raise ConfigError(f"no robot {str(name_or_path)!r}: give one of {known}, or the path of a YAML file")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    try:
        return RobotDescription.model_validate(values)
    except ValidationError as error:
        problems = [f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{path}:\n" + "\n".join(problems)) from error
