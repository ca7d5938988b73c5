"""The safety filter as a process of its own: the only publisher of ``command``. All rules are in control/safety."""

from __future__ import annotations

import math
import sys
import time

import numpy as np
from pydantic import BaseModel, Field
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import Bool, Empty, Header
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

import openvla_ros.msg as ours
from openvla_ros.control.safety import start_up
from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.filter import Decision, SafetyFilter, State, Verdict
from openvla_ros.errors import ConfigError
from openvla_ros.robots.arm_model import ArmModel
from openvla_ros.robots.description import RobotDescription, load_robot
from openvla_ros.ros import conversion, parameters, priority, qos, spin, stop_signal, timers
from openvla_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from openvla_ros.ros.markers import safety_markers
from openvla_ros.ros.outlet import Outlet

NO_ROBOT = "none"
REFUSAL_INTERVAL = 0.004  # [s] between two refusals that are told: a flood of actions is not to become one of statuses


class NodeParameters(BaseModel):
    """What the node itself needs; the rules' own parameters are SafetyConfig's."""

    tick_hz: float = Field(100.0, ge=50.0, le=1000.0, description="rate of the watchdog timer [Hz]")
    status_hz: float = Field(20.0, ge=5.0, le=100.0, description="rate of safety_status as a heartbeat [Hz]")
    armed_at_start: bool = Field(
        False, description="pass actions without a ~/reset first; false: a filter that was restarted forgets no stop"
    )
    marker_hz: float = Field(2.0, ge=0.1, le=30.0, description="rate of safety_markers, for RViz [Hz]")
    robot: str = Field(
        min_length=1, description="robot description: a name in config/robots, or a file; none: no arm rules, no checks"
    )
    base_frame: str = Field("", description="frame_id of every command; empty: the robot description's base frame")


class SafetyFilterNode(Node):
    """In: ``action``, ``observation``, ``arm_state``, ``e_stop``, ``heartbeat``. Services: ~/stop, ~/reset, ~/resume.

    Out: ``command``, ``safety_status``, ``safety_markers``.
    """

    def __init__(self) -> None:
        super().__init__("safety_filter")
        self._settings = parameters.declare(self, NodeParameters)
        config = parameters.declare(self, SafetyConfig)
        self._robot = None if self._settings.robot == NO_ROBOT else load_robot(self._settings.robot)
        self._arm_model = None if self._robot is None else ArmModel(self._robot)
        self._base_frame = base_frame(self._settings.base_frame, self._robot)
        self._check(config)
        self._filter = SafetyFilter(config, self._arm_model)
        self._joint_names = self._robot.joint_names if self._robot is not None else ()
        self._pressed = False
        self._signalled = False
        self._last_status = self._last_refusal = -math.inf  # steady clock [s]
        self._action = ours.DeltaAction()  # the one being answered
        self._command = Outlet(self)
        self._status = self.create_publisher(ours.SafetyStatus, "safety_status", qos.STATUS)
        self._markers = self.create_publisher(MarkerArray, "safety_markers", qos.LATCHED)
        self._diagnostics = Diagnostics(self)
        self.create_subscription(ours.DeltaAction, "action", self._on_action, qos.LATEST)
        self.create_subscription(ours.ArmState, "arm_state", self._on_arm_state, qos.LATEST)
        for profile in qos.E_STOP:
            self.create_subscription(Bool, "e_stop", self._on_e_stop, profile)
        self.create_subscription(Empty, "heartbeat", self._on_heartbeat, qos.HEARTBEAT)
        self.create_subscription(Header, "observation", self._on_observation, qos.HEARTBEAT)
        self.create_service(Trigger, "~/stop", self._on_stop)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/resume", self._on_resume)
        self._signal_guard = self.create_guard_condition(self._heed_signal)
        timers.every(self, 1.0 / self._settings.tick_hz, self._on_timer)
        timers.every(self, 1.0 / self._settings.marker_hz, self._show)
        if not self._settings.armed_at_start:
            now = self._now()
            self._publish(self._filter.stop("the start of the filter", now), now)
        self.add_on_set_parameters_callback(self._on_parameters)

    def _check(self, config: SafetyConfig) -> None:
        """Raises ConfigError where the configuration contradicts the robot."""
        if self._robot is None:
            self.get_logger().warning("robot is none: joint limits, singularities and collisions are not checked")
            return
        limits = self._robot.cartesian_limits
        start_up.check_robot(
            config,
            arm_model=self._arm_model,
            start_joints=self._robot.pose("start"),
            speed_m_s=limits.max_linear,
            speed_rad_s=limits.max_angular,
            max_efforts_n_m=tuple(joint.max_effort for joint in self._robot.joints),
        )

    def _now(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def stop_at_once(self) -> None:
        """Hold the arm and latch. From any thread: the arm is held before the executor hears of it."""
        self._command.shut(self.get_clock().now().to_msg())
        self._signalled = True
        self._signal_guard.trigger()

    def _heed_signal(self) -> None:
        if not self._signalled:
            return
        self._signalled = False
        now = self._now()
        self._publish(self._filter.stop("signal SIGUSR1", now), now)
        self._command.open()  # what is latched passes nothing

    def _on_action(self, message: ours.DeltaAction) -> None:
        self._heed_signal()
        now = self._now()
        self._action = message
        self._publish(self._filter.on_action(conversion.stamped_action(message), now), now)

    def _on_arm_state(self, message: ours.ArmState) -> None:
        self._filter.on_arm_state(conversion.arm_state(message))

    def _on_heartbeat(self, _: Empty) -> None:
        self._filter.on_heartbeat(self._now())

    def _on_observation(self, _: Header) -> None:
        self._filter.on_observation(self._now())

    def _on_e_stop(self, message: Bool) -> None:
        now = self._now()
        self._pressed = bool(message.data)
        self._publish(self._filter.press(self._pressed, now), now)

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        now = self._now()
        self._publish(self._filter.stop("service ~/stop", now), now)
        response.success, response.message = True, "stopped; ~/reset re-arms, ~/resume goes on"
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._heed_signal()
        now = self._now()
        response.success, response.message = self._filter.reset(now)
        self._publish(self._filter.tick(now), now)
        return response

    def _on_resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._heed_signal()
        now = self._now()
        response.success, response.message = self._filter.resume(now)
        self._publish(self._filter.tick(now), now)
        return response

    def close(self) -> None:
        """Before the process ends: the arm holds, and everybody knows."""
        now = self._now()
        self._publish(self._filter.stop("the end of the safety filter", now), now)
        self._command.drain()

    def _on_timer(self) -> None:
        self._heed_signal()
        now = self._now()
        before = self._filter.state
        decision = self._filter.tick(now)
        # Not by `now`: the heartbeat must not stop when the clock of the stamps is set back, or stands still.
        due = time.monotonic() - self._last_status >= 1.0 / self._settings.status_hz
        if decision.command is not None or decision.state is not before or due:
            self._publish(decision, now)

    def _publish(self, decision: Decision, received: float) -> None:
        now = self._now()
        answers = decision.action_sequence != 0
        if decision.command is not None:
            command = conversion.command_msg(decision.command, self._joint_names)
            command.header.frame_id = self._base_frame
            command.header.stamp = self._action.header.stamp if answers else conversion.time_msg(now)
            command.action_received = conversion.time_msg(received)
            command.decided = conversion.time_msg(now)
            self._command.send(command)
        if decision.verdict is Verdict.REFUSED and decision.command is None:
            if time.monotonic() - self._last_refusal < REFUSAL_INTERVAL:
                return
            self._last_refusal = time.monotonic()
        last = self._filter.last_command
        nothing = np.full(7, np.nan)
        status = ours.SafetyStatus(
            episode_id=self._action.episode_id if answers else "",
            state=decision.state.value,
            stop_pressed=self._pressed,
            verdict=decision.verdict.value,
            action_sequence=decision.action_sequence,
            command_sequence=last.sequence if last is not None else 0,
            reports=[conversion.report_msg(r) for r in decision.reports],
            raw_action=nothing if decision.raw is None else decision.raw.to_array(),
            filtered_action=nothing if decision.filtered is None else decision.filtered.to_array(),
        )
        status.header.stamp = conversion.time_msg(now)
        self._status.publish(status)
        self._last_status = time.monotonic()
        reasons = "; ".join(f"{r.rule}: {r.detail}" for r in decision.reports)
        level = {State.STOPPED: ERROR, State.ACTIVE: OK}.get(decision.state, WARN)
        self._diagnostics.set(level, decision.state.name.lower() + (f" ({reasons})" if reasons else ""))

    def _show(self) -> None:
        last = self._filter.last_command
        target = None if last is None or last.hold else last.target
        stamp = conversion.time_msg(self._now())
        self._markers.publish(
            safety_markers(self._filter.config, target, self._filter.measured, self._base_frame, stamp)
        )

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        def check() -> None:
            frozen = [p.name for p in changed if p.name in NodeParameters.model_fields]
            if frozen:
                raise ConfigError(f"{', '.join(frozen)} can't be changed while the node runs: restart it")
            config = parameters.read(self, SafetyConfig, changed)
            self._check(config)
            self._filter.update(config)

        return parameters.accept(check)


def base_frame(asked: str, robot: RobotDescription | None) -> str:
    """The robot's, or where there is none what was asked for. Raises ConfigError for one that is not the robot's."""
    if robot is None:
        if not asked:
            raise ConfigError("base_frame: without a robot description (robot: none) it must be given")
        return asked
    if asked not in ("", robot.base_frame):
        raise ConfigError(f"base_frame: {asked!r} is not {robot.name}'s base frame {robot.base_frame!r}: leave it out")
    return robot.base_frame


def make() -> SafetyFilterNode:
    node = SafetyFilterNode()
    stop_signal.watch(node.stop_at_once)
    return node


def main() -> int:
    return spin.run(make, realtime=priority.FILTER)


if __name__ == "__main__":
    sys.exit(main())
