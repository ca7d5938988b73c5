"""The rules of the safety filter, in their order. A new rule is one file and one line here.

Each is built from the whole SafetyConfig, the arm rules from a model of the arm as well; ``motion.py`` says what each
kind is asked.
"""

from __future__ import annotations

from collections.abc import Callable

from openvla_ros.control.safety.arm import ArmModel
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import ArmRule, Gate, Limit, Monitor
from openvla_ros.control.safety.rules.camera import CameraGate, CameraSilence
from openvla_ros.control.safety.rules.collision import SelfCollision, TableCollision
from openvla_ros.control.safety.rules.contact import Effort, Wrench
from openvla_ros.control.safety.rules.deadman import Deadman
from openvla_ros.control.safety.rules.duration import Duration
from openvla_ros.control.safety.rules.e_stop import EStopSilence
from openvla_ros.control.safety.rules.finite import Finite
from openvla_ros.control.safety.rules.flood import Flood
from openvla_ros.control.safety.rules.freeze import Freeze
from openvla_ros.control.safety.rules.fresh import Fresh
from openvla_ros.control.safety.rules.gripper import GripperTarget
from openvla_ros.control.safety.rules.joint_range import JointRange
from openvla_ros.control.safety.rules.joint_speed import JointSpeed
from openvla_ros.control.safety.rules.keep_out import KeepOut
from openvla_ros.control.safety.rules.keep_out_arm import KeepOutArm
from openvla_ros.control.safety.rules.latch import Latch
from openvla_ros.control.safety.rules.link_speed import LinkSpeed
from openvla_ros.control.safety.rules.order import Order
from openvla_ros.control.safety.rules.pace import Pace
from openvla_ros.control.safety.rules.paused import Paused
from openvla_ros.control.safety.rules.plausible import Plausible
from openvla_ros.control.safety.rules.ramp_in import RampIn
from openvla_ros.control.safety.rules.rate import Rate
from openvla_ros.control.safety.rules.reachable import Reachable
from openvla_ros.control.safety.rules.singularity import Singularity
from openvla_ros.control.safety.rules.step import StepSize
from openvla_ros.control.safety.rules.tracking import Tracking
from openvla_ros.control.safety.rules.whole_arm import WholeArm
from openvla_ros.control.safety.rules.workspace import Workspace

GATES: tuple[Callable[[SafetyConfig], Gate], ...] = (
    Finite,
    Plausible,
    Fresh,
    Order,
    Rate,
    Latch,
    Paused,
    CameraGate,
)

LIMITS: tuple[Callable[[SafetyConfig], Limit], ...] = (
    Duration,
    RampIn,
    StepSize,
    Pace,
    Tracking,
    Workspace,
    KeepOut,
    GripperTarget,
    Freeze,
)

ARM_RULES: tuple[Callable[[SafetyConfig, ArmModel], ArmRule], ...] = (
    Reachable,
    JointRange,
    JointSpeed,
    LinkSpeed,
    Singularity,
    SelfCollision,
    TableCollision,
    KeepOutArm,
    WholeArm,
)

MONITORS: tuple[Callable[[SafetyConfig], Monitor], ...] = (
    Wrench,
    Effort,
    Deadman,
    EStopSilence,
    Flood,
)

PAUSES: tuple[Callable[[SafetyConfig], Monitor], ...] = (CameraSilence,)
