"""Sends a recorded episode's actions into a running graph, through its safety filter like any policy's."""

from __future__ import annotations

import contextlib
import math
import threading
import time

from std_msgs.msg import Header

import openvla_ros.msg as ours
from openvla_ros.errors import OpenVLAError, ReplayError
from openvla_ros.operate.operator import Operator
from openvla_ros.recording.replay import (
    Graph,
    Path,
    Plan,
    Replay,
    Sent,
    Tolerance,
    check_graph,
    check_start,
    distance,
    step_towards,
)
from openvla_ros.recording.trace import VERDICTS
from openvla_ros.robots.description import load_robot
from openvla_ros.ros import conversion, qos
from openvla_ros.types import Action, ArmState, Pose

_SILENCE = 0.5  # [s] without safety_status or arm_state after which nothing more is sent
_APPROACH_PERIOD = 0.2  # [s] of one small step to the start pose
_OBSERVATION_PERIOD = 0.02  # [s] less than half of the least ``camera.timeout_s``
_UNKNOWN = "_NODE_NAME_UNKNOWN_"  # rmw_dds_common's, of a node that is about to come or to go
_SETTLED = 1.0  # [s] without a change among nodes and subscriptions after which all of them are taken to be known


class Replayer:
    """One replay in the graph of an operator: `prepare`, `move_to_start` if wanted, `run`.

    Publishes on ``action``: what moves the arm is what the safety filter makes of it. And on ``observation``: a replay
    looks at no image, and a filter that holds without any must let it pass.
    """

    def __init__(self, operator: Operator, plan: Plan, tolerance: Tolerance) -> None:
        self._operator = operator
        self._plan = plan
        self._tolerance = tolerance
        self._sequence = round(operator.now() * 1e3)  # as the policy's: above all before
        self._first = self._sequence
        self._begun = operator.now()
        self._sent: dict[int, Sent] = {}
        self._states: list[ArmState] = []
        self._frame: tuple[str, tuple[str, ...]] = ("", ())
        self._status: ours.SafetyStatus | None = None
        self._heard = {"safety_status": -math.inf, "arm_state": -math.inf}  # steady clock [s]
        self._target: Pose | None = None  # last one commanded
        self._running = False
        self._foreign = False  # whether the filter has answered somebody else's action
        self._stopped = ""
        self._stop = threading.Event()
        self._actions = operator.node.create_publisher(ours.DeltaAction, "action", qos.LATEST)
        self._observation = operator.node.create_publisher(Header, "observation", qos.HEARTBEAT)
        operator.node.create_timer(_OBSERVATION_PERIOD, lambda: self._observation.publish(Header()))
        operator.watch(ours.SafetyStatus, "safety_status", qos.STATUS, self._on_status)
        operator.watch(ours.ArmState, "arm_state", qos.LATEST, self._on_arm_state)
        operator.watch(ours.SafeCommand, "command", qos.LATEST, self._on_command)

    # ---- watching, in the operator's thread

    def _on_status(self, message: ours.SafetyStatus) -> None:
        self._status = message
        self._heard["safety_status"] = time.monotonic()
        sent = self._sent.get(int(message.action_sequence))
        if sent is not None and message.verdict in VERDICTS:
            sent.verdict = VERDICTS[message.verdict]
            sent.reasons = tuple(r.rule for r in message.reports)
        if message.state == ours.SafetyStatus.STOPPED:
            self._halt(_why(message))
        # Heard from the filter, which knows all publishers, even where discovery has not told us of one.
        if message.action_sequence and not self._is_ours(message.action_sequence) and self._is_new(message):
            self._foreign = True
            self._halt(f"somebody else publishes actions (number {message.action_sequence}): is a policy active?")

    def _on_arm_state(self, message: ours.ArmState) -> None:
        self._heard["arm_state"] = time.monotonic()
        self._states.append(conversion.arm_state(message))
        self._frame = (message.header.frame_id, tuple(message.joints.name))

    def _on_command(self, message: ours.SafeCommand) -> None:
        self._target = None if message.kind == ours.SafeCommand.HOLD else conversion.pose(message.target)
        sent = self._sent.get(int(message.action_sequence))
        if sent is not None:
            sent.target = self._target
            if sent.target_mm is not None and not sent.target_mm <= self._tolerance.stray_m * 1e3:
                self._halt(f"the arm is commanded {sent.target_mm:.0f} mm from where it was: see the verdicts before")

    def _is_ours(self, sequence: int) -> bool:
        return self._first < sequence <= self._sequence

    def _is_new(self, message: ours.SafetyStatus) -> bool:
        """Not one of the latched ones from before."""
        return conversion.seconds(message.header.stamp) > self._begun

    def _halt(self, reason: str) -> None:
        if self._running:
            self._stopped = self._stopped or reason
            self._stop.set()

    # ---- before

    def prepare(self, timeout: float = 10.0) -> None:
        """Wait for the graph and check that it may be moved. Raises ReplayError or OpenVLAError; nothing was sent."""
        self._operator.wait_for("safety_status: is the safety filter running?", lambda: self._status, timeout)
        self._operator.wait_for("arm_state: is the arm driver running?", lambda: self._states, timeout)
        self._operator.wait_for_listener("action", "safety_filter", timeout)
        self._settle(timeout)
        self._check_alone()
        name = str(self._operator.parameter("arm_driver", "robot"))
        check_graph(self._plan, Graph(name, load_robot(name), *self._frame))
        status = self._status
        assert status is not None
        if status.state == ours.SafetyStatus.STOPPED or status.stop_pressed:
            raise ReplayError(f"{_why(status)}: release the stop and call `openvla-ros reset` first")

    def _settle(self, timeout: float) -> None:
        """Wait until nodes have found each other: the first action would be lost, another publisher not seen."""
        node, deadline, known, since = self._operator.node, time.monotonic() + timeout, None, 0.0
        while time.monotonic() < deadline:
            publishers = sorted(p.node_name for p in node.get_publishers_info_by_topic("action"))
            now = sorted(node.get_node_names_and_namespaces()), self._actions.get_subscription_count(), publishers
            if now != known or _UNKNOWN in publishers:
                known, since = now, time.monotonic()
            elif time.monotonic() - since > _SETTLED:
                return
            time.sleep(0.05)
        raise ReplayError(f"nodes kept coming and going for {timeout:g} s: it is not known who else publishes actions")

    def _check_alone(self) -> None:
        """Two publishers of actions would move the arm in turns."""
        if self._foreign:
            raise ReplayError("somebody else publishes actions: deactivate the policy first, or the arm gets both")
        own = self._operator.node.get_name()
        for info in self._operator.node.get_publishers_info_by_topic("action"):
            if info.node_name == own:
                continue
            name = f"{info.node_namespace.rstrip('/')}/{info.node_name}"
            state = "no lifecycle node"
            with contextlib.suppress(OpenVLAError):
                state = self._operator.lifecycle_state(name, timeout=2.0)
            if state != "inactive":
                raise ReplayError(
                    f"{name} publishes actions too ({state}): deactivate it first "
                    f"(ros2 lifecycle set {name} deactivate), or the arm gets both"
                )

    def move_to_start(self) -> None:
        """Bring the arm straight to the start pose in small steps, 5 cm/s, through the safety filter.

        Nobody looks for obstacles on the way but the filter's workspace. Raises ReplayError where it does not arrive.
        """
        goal = self._plan.start
        metres, radians = distance(goal, self._measured.pose)
        deadline = time.monotonic() + 10.0 + 3.0 * max(metres / 0.05, radians / 0.25)
        self._begin()
        try:
            while not self._arrived(goal):
                if self._stop.wait(_APPROACH_PERIOD) or self._silent():
                    raise ReplayError(f"stopped on the way to the start pose: {self._stopped}")
                if time.monotonic() > deadline:
                    metres, radians = distance(goal, self._measured.pose)
                    raise ReplayError(
                        f"the start pose was not reached, {metres * 1e3:.0f} mm and {math.degrees(radians):.1f} deg "
                        f"are left: `ros2 topic echo safety_status` says what the filter limits"
                    )
                translation, rotation = step_towards(goal, self._target or self._measured.pose)
                self._publish(Action(translation, rotation, self._measured.gripper), _APPROACH_PERIOD, "", "")
        finally:
            self._running = False

    def _arrived(self, goal: Pose) -> bool:
        """Well within the tolerance, and at rest."""
        metres, radians = distance(goal, self._measured.pose)
        near = metres <= self._tolerance.translation_m / 4 and radians <= self._tolerance.rotation_rad / 2
        return near and float(abs(self._measured.linear_velocity).max()) < 0.005

    # ---- the replay

    def run(self) -> Replay:
        """Send every action at its time. Ends early, and says why, when the filter stops or the graph falls silent.

        Raises ReplayError where the arm is not at the start pose; nothing was sent then.
        """
        check_start(self._plan, self._measured.pose, self._tolerance)
        sent: list[Sent] = []
        self._begin()
        begin = time.monotonic()
        first_state = len(self._states) - 1
        for step in self._plan.steps:
            due = begin + step.time
            if self._stop.wait(max(0.0, due - time.monotonic())) or self._silent():
                break
            late = time.monotonic() - due
            record = Sent(step, self._sequence + 1, self._operator.now(), late)
            self._sent[record.sequence] = record
            sent.append(record)
            self._publish(step.action, step.duration, step.instruction, step.unnorm_key)
        else:
            # The last motion ends; the filter's last verdict comes.
            self._stop.wait(max(self._plan.tail, _SILENCE))
        self._running = False
        states = self._states[first_state:]
        path = Path([s.stamp for s in states], [s.pose for s in states], [s.gripper for s in states])
        return Replay(self._plan, sent, path, self._stopped)

    def _begin(self) -> None:
        self._stopped = ""
        self._stop.clear()
        self._running = True

    @property
    def _measured(self) -> ArmState:
        return self._states[-1]

    def _silent(self) -> bool:
        """Whether the graph has gone silent; the reason is kept."""
        for topic, heard in self._heard.items():
            age = time.monotonic() - heard
            if age > _SILENCE:
                self._halt(f"nothing on {topic} for {age:.1f} s")
                return True
        return False

    def _publish(self, action: Action, duration: float, instruction: str, unnorm_key: str) -> None:
        """An action of now: the filter refuses those of then, and should."""
        self._sequence += 1
        now = self._operator.node.get_clock().now().to_msg()
        message = ours.DeltaAction(
            episode_id=f"{self._plan.episode_id}-replay",
            sequence=self._sequence,
            image_received=now,
            inference_started=now,
            inference_ended=now,
            duration=conversion.duration_msg(duration),
            instruction=instruction,
            unnorm_key=unnorm_key,
            control_since=conversion.time_msg(self._begun),
        )
        message.header.stamp = now
        message.header.frame_id = self._plan.base_frame
        conversion.fill_action(message, action)
        self._actions.publish(message)


def _why(status: ours.SafetyStatus) -> str:
    reasons = "; ".join(f"{r.rule}: {r.detail}" for r in status.reports) or "no reason given"
    return f"the safety filter is stopped ({reasons})"
