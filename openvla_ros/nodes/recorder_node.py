"""Records episodes into rosbag2 bags: automatically with control, by the `episode` topic or by services.

A process of its own that publishes nothing but diagnostics: whatever goes wrong here, the arm and what guards it do not
notice. How an episode is written is in recording/.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from lifecycle_msgs.msg import TransitionEvent
from lifecycle_msgs.srv import GetState
from pydantic import Field
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import String
from std_srvs.srv import Trigger

import openvla_ros.msg as ours
from openvla_ros.errors import OpenVLAError, RecordingError
from openvla_ros.recording.backends import make_backend
from openvla_ros.recording.provenance import Control, EpisodeOutcome, FailureReason, Instruction, Provenance
from openvla_ros.recording.recorder import Change, RecorderSettings
from openvla_ros.ros import parameters, qos, spin
from openvla_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from openvla_ros.ros.remote_parameters import ASK_PERIOD, Every, RemoteParameters
from openvla_ros.ros.subscriptions import Subscriptions

TOPICS = (
    "image",
    "instruction",
    "observation",
    "action",
    "command",
    "safety_status",
    "arm_state",
    "e_stop",
    "episode",
    "policy_info",
    "policy/transition_event",
    "joint_states",
    "arm_controller/joint_trajectory",
    "gripper_controller/joint_trajectory",
    "/diagnostics",
    "/tf",
    "/tf_static",
)
LINGER = 1.0  # [s] that a recording goes on after its end was said


class RecorderParameters(RecorderSettings):
    """Parameters of the recorder."""

    record: Literal["control", "request"] = Field(
        "control", description="control: an episode each time the policy is active; request: only by topic or service"
    )
    backend: str = Field("builtin", description="builtin, or rosbag2: `ros2 bag record`, where ROS 2 has it installed")
    topics: list[str] = Field(list(TOPICS), description="what is recorded, as far as somebody publishes it")
    extra_topics: list[str] = Field([], description="more of it: wrist cameras, force sensors, ...")
    policy: str = Field("policy", description="the lifecycle node whose activity is control")
    nodes: list[str] = Field(
        ["policy", "safety_filter", "arm_driver", "sim"], description="nodes whose parameters are kept"
    )


class RecorderNode(Node):
    """In: every topic of the graph. Services: ~/start, ~/stop (std_srvs/Trigger)."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self._settings = settings = parameters.declare(self, RecorderParameters)
        self._diagnostics = Diagnostics(self)
        topics = list(dict.fromkeys(settings.topics + settings.extra_topics))
        self._recorder = make_backend(settings.backend, settings, [self.resolve_topic_name(t) for t in topics])
        self._heard = Subscriptions(self, topics if self._recorder.takes_messages else [], self._recorder.put)
        self._remote = {name: RemoteParameters(self, name, self._on_parameters) for name in settings.nodes}
        self._policy_info: dict[str, Any] = {}
        self._instruction = ""
        self._automatic = False  # whether the episode in hand began with control
        self._ending: Any = None  # timer of an end that is to come
        self._change: Change | None = None  # what it will say
        self._policy_known = False  # it is there, and its state was asked for
        self._ask_again = Every(ASK_PERIOD)
        self._problem = ""
        # rclpy's annotations leave out that a callback with two arguments gets the message's info too.
        on_episode: Any = self._on_episode
        on_transition: Any = self._on_transition
        self.create_subscription(ours.Episode, "episode", on_episode, qos.LATCHED)
        self.create_subscription(String, "policy_info", self._on_policy_info, qos.LATCHED)
        self.create_subscription(String, "instruction", self._on_instruction, qos.LATCHED)
        self._state = self.create_client(GetState, f"{settings.policy}/get_state")
        self._transitions = self.resolve_topic_name(f"{settings.policy}/transition_event")
        self.create_subscription(TransitionEvent, self._transitions, on_transition, QoSProfile(depth=10))
        self.create_service(Trigger, "~/start", self._on_start)
        self.create_service(Trigger, "~/stop", self._on_stop)
        self.create_timer(0.2, self._look)
        self.create_timer(0.5, self._report)

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9

    def close(self) -> None:
        self._end()
        self._recorder.close()

    # ---- when

    def _on_episode(self, message: ours.Episode, info: dict[str, int]) -> None:
        if message.event == ours.Episode.START:
            self._end()
            self._begin(message.episode_id, message.instruction, sent_ns=info.get("source_timestamp"))
        elif message.event == ours.Episode.STOP:
            self._end_soon(lambda p: _judged(p, message))

    def _on_start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._automatic or self._change is not None:
            self._end()
        response.success, response.message = self._begin()
        return response

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        folder = self._end()
        response.success = folder is not None
        response.message = "no episode is being recorded" if folder is None else str(folder)
        return response

    def _on_transition(self, message: TransitionEvent, info: dict[str, int]) -> None:
        self._on_policy_state(message.goal_state.label, info.get("source_timestamp"))

    def _on_state(self, future: Any) -> None:
        if not self._policy_known:  # an answer to an earlier question may still come
            self._policy_known = True
            self._on_policy_state(future.result().current_state.label)

    def _on_policy_state(self, label: str, sent_ns: int | None = None) -> None:
        if self._settings.record != "control":
            return
        if label == "active":
            if self._change is not None:
                self._end()
            if self._recorder.folder is None:
                self._automatic = self._begin(sent_ns=sent_ns)[0]
        elif label in ("inactive", "unconfigured", "finalized", "errorprocessing") and self._automatic:
            self._end_soon(lambda p: p)

    def _look(self) -> None:
        """Follow who is there: publishers to hear, and the policy, which may die without a word."""
        self._recorder.announce(self._heard.look())
        seen = self.count_publishers(self._transitions) > 0
        if self._policy_known and not seen:
            self._policy_known = False
            self._on_policy_state("finalized")
        elif seen and not self._policy_known and self._ask_again.due() and self._state.service_is_ready():
            # It may have been active before we heard it.
            self._state.call_async(GetState.Request()).add_done_callback(self._on_state)
        for remote in self._remote.values():
            remote.look()

    # ---- an episode

    def _begin(self, episode_id: str = "", instruction: str = "", sent_ns: int | None = None) -> tuple[bool, str]:
        """Start one: (done, folder or why not). Never raises. sent_ns: when it was asked for, if that is not now."""
        self._automatic = False
        now = self._now()
        utc = datetime.fromtimestamp(now, timezone.utc)
        about = Provenance(
            episode_id=episode_id or f"{utc:%Y-%m-%dT%H-%M-%S}.{utc.microsecond // 1000:03d}Z",
            started=now,
            instructions=[Instruction(time=now, text=t)] if (t := instruction or self._instruction) else [],
        )
        now_ns = round(now * 1e9)
        before = self._heard.before(now_ns, sent_ns or now_ns)
        try:
            folder = self._recorder.start(self._known(about), self._heard.topics, before)
        except OpenVLAError as error:
            self._problem = str(error)
            self.get_logger().error(f"no recording: {error}")
            self._report()
            return False, str(error)
        self._problem = ""
        self.get_logger().info(f"recording to {folder}")
        for remote in self._remote.values():
            remote.request()
        return True, str(folder)

    def _end_soon(self, change: Change) -> None:
        """Stop after LINGER, for the end of the last motion. ``change`` of the provenance is kept until then."""
        if self._recorder.folder is None:
            return
        before, ended = self._change, self._now()
        if before is None:
            self._change = lambda p: change(p.model_copy(update={"ended": ended}))
            self._ending = self.create_timer(LINGER, self._end)
        else:
            self._change = lambda p: change(before(p))

    def _end(self) -> Path | None:
        """Stop now: the folder, None where nothing was recorded."""
        if self._ending is not None:
            self.destroy_timer(self._ending)
        ended = self._now()
        folder = self._recorder.stop(self._change or (lambda p: p.model_copy(update={"ended": ended})))
        self._ending = self._change = None
        self._automatic = False
        return folder

    def _known(self, about: Provenance) -> Provenance:
        """``about`` with what the nodes have said of themselves."""
        nodes = {name: remote.values for name, remote in self._remote.items() if remote.values}
        policy = nodes.get(self._settings.policy, {})
        loop = {name.removeprefix("loop."): value for name, value in policy.items() if name.startswith("loop.")}
        robots = [values["robot"] for values in nodes.values() if values.get("robot")]
        scene = {name: nodes["sim"][name] for name in ("scene", "seed") if name in nodes.get("sim", {})}
        return about.model_copy(
            update={
                "source": "simulation" if "sim" in nodes else about.source,
                "policy": self._policy_info,
                "control": Control(mode=policy.get("mode", ""), control_hz=loop.get("control_hz"), loop=loop),
                "robot": robots[0] if robots else "",
                "safety": nodes.get("safety_filter", {}),
                "scene": scene,
                "nodes": nodes,
            }
        )

    def _on_parameters(self) -> None:
        self._recorder.update(self._known)

    def _on_policy_info(self, message: String) -> None:
        self._policy_info = json.loads(message.data)
        self._recorder.update(self._known)

    def _on_instruction(self, message: String) -> None:
        self._instruction = message.data

    # ---- reports

    def _report(self) -> None:
        recorder = self._recorder
        problem = self._problem or recorder.problem
        values = {"episode": recorder.folder or "", "messages": recorder.messages, "dropped": recorder.dropped}
        unheard = "; ".join(f"{topic}: {why}" for topic, why in self._heard.problems.items())
        if problem:
            self._diagnostics.set(ERROR, f"not recording: {problem}", **values)
        elif recorder.dropped:
            self._diagnostics.set(WARN, f"{recorder.dropped} messages dropped: the disk is too slow", **values)
        elif unheard:
            self._diagnostics.set(WARN, f"not recorded: {unheard}", **values)
        elif recorder.folder is None:
            self._diagnostics.set(OK, f"waiting for {self._settings.record}", **values)
        else:
            self._diagnostics.set(OK, f"recording, {recorder.waiting_mb:.1f} MB wait for the disk", **values)


def _judged(provenance: Provenance, message: ours.Episode) -> Provenance:
    """With the judgement of a STOP message. What it says can be wrong; it is kept as text then, never lost."""
    outcome = list(EpisodeOutcome)[message.outcome] if message.outcome < len(EpisodeOutcome) else EpisodeOutcome.UNKNOWN
    try:
        reason = FailureReason(message.failure_reason) if message.failure_reason else None
        return provenance.judge(outcome, message.score, reason, message.failure_detail)
    except (ValueError, RecordingError) as error:
        said = f"outcome {message.outcome}, score {message.score}, {message.failure_reason} {message.failure_detail}"
        return provenance.model_copy(update={"failure_detail": f"unusable judgement ({error}): {said}"})


def main() -> int:
    return spin.run(RecorderNode)


if __name__ == "__main__":
    sys.exit(main())
