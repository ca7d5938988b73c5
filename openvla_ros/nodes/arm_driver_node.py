"""The arm driver: SafeCommand in, joint trajectories for the arm's own controller out, and ArmState back.

All decisions are in drive/driver.py, all geometry in robots/.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np
from builtin_interfaces.msg import Time
from pydantic import BaseModel, Field
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

import openvla_ros.msg as ours
from openvla_ros.drive.driver import Driver, DriverConfig
from openvla_ros.drive.interfaces import load_interface
from openvla_ros.errors import KinematicsError
from openvla_ros.robots.description import load_robot
from openvla_ros.robots.kinematics import Kinematics
from openvla_ros.ros import conversion, parameters, priority, qos, spin, timers
from openvla_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import ArmState, Outcome

_DRAIN = 0.2  # [s] for the last hold to reach the controller


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
        self._driver = Driver(self._robot, self._kinematics, settings.motion)
        self._command_received = self._command_sent = Time()
        self._problem = "no joint states yet: is the arm's own driver running?"
        interface = self._robot.interface
        self._interface = load_interface(interface.name)
        self._arm = self.create_publisher(JointTrajectory, interface.arm_topic, qos.STREAM)
        self._gripper = self.create_publisher(JointTrajectory, interface.gripper_topic, qos.STREAM)
        self._arm_state = self.create_publisher(ours.ArmState, "arm_state", qos.LATEST)
        self._diagnostics = Diagnostics(self)
        self.create_subscription(JointState, interface.joint_states_topic, self._on_joint_states, qos.STREAM)
        self.create_subscription(ours.SafeCommand, "command", self._on_command, qos.COMMAND)
        self.create_subscription(ours.SafetyStatus, "safety_status", self._on_status, qos.STATUS)
        for profile in qos.E_STOP:
            self.create_subscription(Bool, "e_stop", self._on_e_stop, profile)
        timers.every(self, 0.02, self._on_timer)

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9

    def _on_command(self, message: ours.SafeCommand) -> None:
        self._command_received = self.get_clock().now().to_msg()
        now, steady = self._now(), time.monotonic()
        try:
            command = conversion.command(message)
        except ValueError as error:  # no path that anybody could follow: what was under way ends
            message.path = JointTrajectory()
            command = conversion.command(message)
            self.get_logger().warning(f"command with a path that is none: {error}", throttle_duration_sec=1.0)
        if command.path is not None:
            command = replace(command, path=command.path.shifted(steady - now))
        self._send(self._driver.on_command(command, now - conversion.seconds(message.decided), steady))
        self._command_sent = self.get_clock().now().to_msg()
        if self._driver.outcome is Outcome.REFUSED:
            self.get_logger().warning(f"command refused: {self._driver.detail}", throttle_duration_sec=1.0)

    def _on_status(self, message: ours.SafetyStatus) -> None:
        stopped = message.state == ours.SafetyStatus.STOPPED
        self._send(self._driver.heard_filter(time.monotonic(), stopped))

    def _on_e_stop(self, message: Bool) -> None:
        self._send(self._driver.press(bool(message.data), time.monotonic()))

    def _on_timer(self) -> None:
        now = time.monotonic()
        driver = self._driver
        driver.gripper.on_listeners(self._gripper.get_subscription_count(), now)
        self._send(driver.tick(now))
        problem = self._problem or driver.missing(now) or driver.unexpected
        if problem:
            self._diagnostics.set(ERROR, problem)
        elif driver.detail:
            self._diagnostics.set(WARN, f"{driver.outcome.name.lower()}: {driver.detail}")
        elif driver.gripper.problem:
            self._diagnostics.set(WARN, driver.gripper.problem)
        elif driver.unbelieved:
            self._diagnostics.set(WARN, f"a measurement is left out: {driver.unbelieved}")
        else:
            self._diagnostics.set(OK, driver.outcome.name.lower())

    def _on_joint_states(self, message: JointState) -> None:
        try:
            state = self._measured(message)
        except (KeyError, ValueError, KinematicsError) as error:
            self._problem = f"joint states can't be used: {error}"
            return
        self._problem = ""
        if self._driver.on_state(state, time.monotonic()):
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
        driver = self._driver
        message = ours.ArmState(
            end_effector=conversion.pose_msg(state.pose),
            twist=conversion.twist_msg(state.linear_velocity, state.angular_velocity),
            joints=conversion.joint_state_msg(self._robot.joint_names, state),
            gripper=state.gripper,
            outcome=driver.outcome.value,
            outcome_stamp=conversion.time_msg(driver.outcome_stamp),
            detail=driver.detail,
            command_received=self._command_received,
            command_sent=self._command_sent,
        )
        told = driver.told(time.monotonic())
        assert told is not None  # there is a measurement
        message.reference = told.reference.tolist()
        message.reference_at_rest = told.at_rest
        message.displaced = conversion.time_msg(told.displaced)
        message.unexpected_motion = told.unexpected
        if driver.command is not None:
            message.target = conversion.pose_msg(driver.command.target)
            message.command_sequence = driver.command.sequence
            message.action_sequence = driver.command.action_sequence
            message.episode_id = driver.command.episode_id
        message.header.stamp = source.header.stamp
        message.header.frame_id = self._robot.base_frame
        self._arm_state.publish(message)

    def _send(self, told: Trajectory | None) -> None:
        now = time.monotonic()
        if told is not None:
            arm = conversion.trajectory_msg(self._interface.arm_trajectory(self._robot, told))
            # The moment that it counts from: what it takes on its way is not to shift it against the one before.
            arm.header.stamp = conversion.time_msg(self._now() + told.start - now)
            self._arm.publish(arm)
        motion = self._driver.gripper.tick(now)
        if motion is not None:
            gripper = self._interface.gripper_trajectory(self._robot, motion.opening, motion.duration)
            self._gripper.publish(conversion.trajectory_msg(gripper))

    def close(self) -> None:
        """Before the process ends: the arm holds."""
        self._send(self._driver.end(time.monotonic()))
        self._arm.wait_for_all_acked(Duration(seconds=_DRAIN))


def main() -> int:
    return spin.run(ArmDriverNode, realtime=priority.DRIVER)


if __name__ == "__main__":
    sys.exit(main())
