"""The arm driver: SafeCommand in, joint trajectories for the arm's own controller out, and ArmState back.

All decisions are in drive/driver.py, all geometry in robots/.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from builtin_interfaces.msg import Time
from pydantic import BaseModel, Field
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

import openvla_ros.msg as ours
from openvla_ros.drive.driver import Driver, DriverConfig, Trajectory
from openvla_ros.drive.interfaces import load_interface
from openvla_ros.errors import KinematicsError
from openvla_ros.robots.description import load_robot
from openvla_ros.robots.kinematics import Kinematics
from openvla_ros.ros import conversion, parameters, qos, spin, timers
from openvla_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from openvla_ros.types import ArmState, Outcome


class DriverParameters(BaseModel):
    """Parameters of the arm driver."""

    robot: str = Field("wx250s", description="robot description: a name in config/robots, or a file")
    motion: DriverConfig = Field(default_factory=DriverConfig)


class ArmDriverNode(Node):
    """In: ``command``, ``safety_status``, ``e_stop``, joint states. Out: ``arm_state``, trajectories."""

    def __init__(self) -> None:
        super().__init__("arm_driver")
        settings = parameters.declare(self, DriverParameters)
        self._robot = load_robot(settings.robot)
        self._kinematics = Kinematics(self._robot)
        self._motion = Driver(self._kinematics, settings.motion)
        self._gripper = float("nan")  # last opening sent
        self._command_received = self._command_sent = Time()
        self._problem = "no joint states yet: is the arm's own driver running?"
        interface = self._robot.interface
        self._interface = load_interface(interface.name)
        self._arm = self.create_publisher(JointTrajectory, interface.arm_topic, qos.STREAM)
        self._gripper_publisher = self.create_publisher(JointTrajectory, interface.gripper_topic, qos.STREAM)
        self._arm_state = self.create_publisher(ours.ArmState, "arm_state", qos.LATEST)
        self._diagnostics = Diagnostics(self)
        self.create_subscription(JointState, interface.joint_states_topic, self._on_joint_states, qos.STREAM)
        self.create_subscription(ours.SafeCommand, "command", self._on_command, qos.LATEST)
        self.create_subscription(ours.SafetyStatus, "safety_status", self._on_status, qos.STATUS)
        self.create_subscription(Bool, "e_stop", self._on_e_stop, qos.LATCHED)
        timers.every(self, 0.02, self._on_timer)

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9

    def _on_command(self, message: ours.SafeCommand) -> None:
        self._command_received = self.get_clock().now().to_msg()
        age = self._now() - conversion.seconds(message.decided)
        self._send(self._motion.on_command(conversion.command(message), age, time.monotonic()))
        self._command_sent = self.get_clock().now().to_msg()
        if self._motion.outcome is Outcome.REFUSED:
            self.get_logger().warning(f"command refused: {self._motion.detail}", throttle_duration_sec=1.0)

    def _on_status(self, _: ours.SafetyStatus) -> None:
        self._motion.heard_filter(time.monotonic())

    def _on_e_stop(self, message: Bool) -> None:
        self._send(self._motion.press(bool(message.data), time.monotonic()))

    def _on_timer(self) -> None:
        now = time.monotonic()
        self._send(self._motion.tick(now))
        outcome, detail = self._motion.outcome, self._motion.detail
        problem = self._problem or self._motion.missing(now)
        if problem:
            self._diagnostics.set(ERROR, problem)
        elif detail:
            self._diagnostics.set(WARN, f"{outcome.name.lower()}: {detail}")
        else:
            self._diagnostics.set(OK, outcome.name.lower())

    def _on_joint_states(self, message: JointState) -> None:
        try:
            state = self._measured(message)
        except (KeyError, ValueError, KinematicsError) as error:
            self._problem = f"joint states can't be used: {error}"
            return
        self._problem = ""
        self._motion.on_state(state, time.monotonic())
        self._publish(state, message)

    def _measured(self, message: JointState) -> ArmState:
        """Raises KeyError, ValueError or KinematicsError for a message that lacks a joint, or is not finite."""
        index = {name: i for i, name in enumerate(message.name)}
        missing = {*self._robot.joint_names, *(f.name for f in self._robot.gripper.fingers)} - index.keys()
        if missing:
            raise KeyError(f"{', '.join(sorted(missing))} missing from {', '.join(message.name)}")
        order = [index[name] for name in self._robot.joint_names]
        if len(message.position) != len(index) or len(message.velocity) != len(index):
            raise ValueError("positions and velocities of every joint are needed")
        q, qd = np.array(message.position)[order], np.array(message.velocity)[order]
        linear, angular = self._kinematics.twist(q, qd)
        fingers = {f.name: float(message.position[index[f.name]]) for f in self._robot.gripper.fingers}
        return ArmState(
            stamp=conversion.seconds(message.header.stamp),
            pose=self._kinematics.forward(q),
            linear_velocity=linear,
            angular_velocity=angular,
            joint_positions=q,
            joint_velocities=qd,
            gripper=self._robot.gripper.opening(fingers),
            joint_efforts=np.array(message.effort)[order] if len(message.effort) == len(index) else None,
        )

    def _publish(self, state: ArmState, source: JointState) -> None:
        motion = self._motion
        message = ours.ArmState(
            end_effector=conversion.pose_msg(state.pose),
            twist=conversion.twist_msg(state.linear_velocity, state.angular_velocity),
            joints=conversion.joint_state_msg(self._robot.joint_names, state),
            gripper=state.gripper,
            outcome=motion.outcome.value,
            outcome_stamp=conversion.time_msg(motion.outcome_stamp),
            detail=motion.detail,
            command_received=self._command_received,
            command_sent=self._command_sent,
        )
        if motion.command is not None:
            message.target = conversion.pose_msg(motion.command.target)
            message.command_sequence = motion.command.sequence
            message.action_sequence = motion.command.action_sequence
            message.episode_id = motion.command.episode_id
        message.header.stamp = source.header.stamp
        message.header.frame_id = self._robot.base_frame
        self._arm_state.publish(message)

    def _send(self, trajectory: Trajectory | None) -> None:
        if trajectory is None:
            return
        arm = self._interface.arm_trajectory(self._robot, trajectory.positions, trajectory.duration)
        self._arm.publish(conversion.trajectory_msg(arm))
        # A gripper's controller need not hear every step that its target has not changed.
        if trajectory.gripper is not None and trajectory.gripper != self._gripper:
            self._gripper = trajectory.gripper
            gripper = self._interface.gripper_trajectory(self._robot, trajectory.gripper, trajectory.duration)
            self._gripper_publisher.publish(conversion.trajectory_msg(gripper))


def main() -> int:
    return spin.run(ArmDriverNode)


if __name__ == "__main__":
    sys.exit(main())
