"""The policy as a lifecycle node: configure loads and warms up the model, activate starts control.

What to infer on and when is decided by control/loops; the model runs in one worker thread. Nothing is ever invented:
without a fresh image and an instruction there is no inference, and a failed inference publishes no action.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

import openvla_ros.msg as ours
from openvla_ros import messages
from openvla_ros.control.loops import ControlLoop, Frame, LoopConfig, Start, Wait, make_loop
from openvla_ros.control.safety.rules import freeze
from openvla_ros.errors import ConfigError, OpenVLAError, PolicyError
from openvla_ros.images import ImageError, fingerprint
from openvla_ros.policy.base import Policy, Prediction
from openvla_ros.policy.registry import load_policy
from openvla_ros.robots.description import load_robot
from openvla_ros.ros import conversion, parameters, qos, spin, timers
from openvla_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from openvla_ros.ros.worker import Worker


class PolicyParameters(BaseModel):
    """Parameters of the policy node. Loading ones take effect at configure, loop ones at activate."""

    checkpoint: str = Field(min_length=1, description="Hugging Face hub id, or folder in the official layout")
    unnorm_key: str = Field("", description="dataset whose statistics un-normalize actions; empty: the only one")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: str = Field("auto", description="auto, float32, bf16, int8, int4, int8-wo, int4-wo, fp8: precision.md")
    threads: int = Field(0, ge=0, description="CPU threads of the model; 0: PyTorch's choice")
    decoding: str = Field("auto", description="auto, plain, draft: faster, the same actions")
    details: bool = Field(False, description="actions carry probabilities, entropies, the second-most-likely action")
    inference_timeout: float = Field(10.0, gt=0, description="an inference that takes longer [s] is a fault")
    robot: str = Field("wx250s", description="robot description: a name in config/robots, or a file")
    mode: Literal["blocking", "non_blocking"] = Field("non_blocking", description="control mode, see architecture.md")
    compressed: bool = Field(False, description="`image` carries CompressedImage instead of Image")
    autostart: bool = Field(False, description="configure and activate without being asked")
    end_on_freeze: bool = Field(
        False, description="control ends when the safety filter reports that action after action asks for no motion"
    )
    loop: LoopConfig = Field(default_factory=LoopConfig)


RELOADS = {"checkpoint", "unnorm_key", "device", "precision", "threads", "decoding", "details"}
RELOADS |= {"robot", "compressed", "autostart"}


_HUNG = "the GPU or its driver hangs, and its thread can't be stopped. Restart the policy process"


def _reason(error: Exception) -> str:
    """What a library raised, in one line, and what to do about it."""
    text = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
    if "out of memory" in text:
        return f"{text}. Free memory on the device or set another precision, then clean up and configure"
    if "CUDA error" in text:
        return f"{text}. The driver gives this process no GPU any more: restart the policy process"
    return text


@dataclass(frozen=True, slots=True)
class _Image:
    """An image message on its way through the loop, with the time it was received."""

    message: Image | CompressedImage
    received: float


class PolicyNode(LifecycleNode):
    """In: ``image``, ``instruction``, ``arm_state``, ``safety_status``, ``episode``.

    Out: ``action``; ``observation``: the header of each image that can be used, while in control; ``policy_info``:
    what runs, as JSON.
    """

    def __init__(self) -> None:
        super().__init__("policy")
        self._settings = parameters.declare(self, PolicyParameters)
        self._diagnostics = Diagnostics(self)
        self._worker = Worker(self, "inference")
        self._policy: Policy | None = None
        self._loop: ControlLoop | None = None  # exists while active
        self._instruction = ""
        self._control_since = 0.0  # the last deliberate act: activation, another instruction
        self._episode_id = ""
        self._sequence = round(self._now() * 1e3)
        self._base_frame = ""
        self._fault = ""
        self._ended = ""  # why control ended by itself
        self._answered = 0  # actions since control began that the safety filter has decided on
        self._inferring_since: float | None = None  # steady clock
        self._hung = False  # from when an inference takes too long until it returns, if it does
        self._last_error = ""
        self._inputs: list[Any] = []
        self._observation = self.create_publisher(Header, "observation", qos.HEARTBEAT)
        self._about = self.create_publisher(String, "policy_info", qos.LATCHED)
        self.add_on_set_parameters_callback(self._on_parameters)
        if self._settings.autostart:
            self._start_timer = self.create_timer(0.0, self._autostart)

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9

    # ---- lifecycle

    def _autostart(self) -> None:
        self._start_timer.cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._hung = not self._worker.idle(self._settings.inference_timeout)
        if self._refuse_while_hung():
            return TransitionCallbackReturn.FAILURE
        self._inferring_since, self._fault = None, ""
        try:
            # In the thread that will use it: libraries set themselves up per thread, at the first call.
            policy = self._worker.run(self._load)
        except OpenVLAError as error:
            self._report_fault(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # rclpy would swallow it: CUDA out of memory, a driver error, ...
            self._report_fault(_reason(error))
            self.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.FAILURE
        self._policy = policy
        self._actions = self.create_lifecycle_publisher(ours.DeltaAction, "action", qos.LATEST)
        image_type = CompressedImage if self._settings.compressed else Image
        self._inputs = [
            self.create_subscription(image_type, "image", self._on_image, qos.CAMERA),
            self.create_subscription(String, "instruction", self._on_instruction, qos.LATCHED),
            self.create_subscription(ours.ArmState, "arm_state", self._on_arm_state, qos.LATEST),
            self.create_subscription(ours.SafetyStatus, "safety_status", self._on_status, qos.STATUS),
            self.create_subscription(ours.Episode, "episode", self._on_episode, qos.LATCHED),
        ]
        self._timer = timers.every(self, 0.01, self._poll)
        about = policy.describe()
        self._about.publish(String(data=json.dumps(about)))
        self.get_logger().info(f"policy ready: {about}")
        return TransitionCallbackReturn.SUCCESS

    def _load(self) -> Policy:
        """The policy that the parameters name, warmed up. Raises OpenVLAError, or what its libraries raise."""
        p = self._settings
        policy = load_policy(
            p.checkpoint,
            unnorm_key=p.unnorm_key or None,
            device=p.device,
            precision=p.precision,
            threads=p.threads,
            decoding=p.decoding,
            details=p.details,
        )
        robot = load_robot(p.robot)
        robot.require(policy.semantics)
        self._base_frame = robot.base_frame
        policy.warm_up()
        return policy

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._refuse_while_hung():
            return TransitionCallbackReturn.FAILURE
        self._ended, self._answered = "", 0
        self._loop = make_loop(self._settings.mode, self._settings.loop)
        self._control_since = self._now()
        self._loop.start(self._control_since, self._instruction)
        self.get_logger().info(f"{self._settings.mode} control starts")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._end_control()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._end_control()
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self.destroy_timer(self._timer)
        self.destroy_lifecycle_publisher(self._actions)
        self._inputs = []
        if self._policy is not None and not self._hung:
            self._worker.submit(self._policy.close, lambda _: None)  # behind an inference in flight
        self._policy = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._end_control()
        return TransitionCallbackReturn.SUCCESS

    def _end_control(self) -> None:
        if self._loop is not None:
            self._loop.stop(self._now())
            self._loop = None

    def close(self) -> None:
        self._end_control()
        self._worker.close()

    # ---- inputs

    def _on_image(self, message: Image | CompressedImage) -> None:
        if self._loop is not None:
            now = self._now()
            stamp = conversion.seconds(message.header.stamp)
            shows_now = self._loop.on_frame(Frame(stamp, now, _Image(message, now), fingerprint(message.data)))
            if shows_now and self._is_readable(message):
                self._observation.publish(message.header)
            self._poll()

    def _is_readable(self, message: Image | CompressedImage) -> bool:
        """As far as one can tell without decoding it. Why not is reported by the inference that fails on it."""
        try:
            conversion.check(message)
        except ImageError:
            return False
        return not self._last_error

    def _on_instruction(self, message: String) -> None:
        if message.data.strip() != self._instruction.strip():
            self._control_since = self._now()
        self._instruction = message.data
        if self._loop is not None:
            self._loop.on_instruction(message.data, self._now())
            self._poll()

    def _on_arm_state(self, message: ours.ArmState) -> None:
        if self._loop is not None:
            self._loop.on_arm_state(
                conversion.arm_state(message),
                int(message.action_sequence),
                messages.outcome(message.outcome),
                conversion.seconds(message.outcome_stamp),
            )

    def _on_status(self, message: ours.SafetyStatus) -> None:
        if self._loop is not None and message.verdict != ours.SafetyStatus.NO_ACTION:
            refused = message.verdict == ours.SafetyStatus.REFUSED
            self._loop.on_verdict(int(message.action_sequence), refused, self._now())
            self._answered += 1
            self._end_on_freeze(message)

    def _end_on_freeze(self, message: ours.SafetyStatus) -> None:
        still = next((r for r in message.reports if r.rule == freeze.CODE), None)
        # The filter counts on from one activation to the next; what was before this one must not end it.
        if self._settings.end_on_freeze and still is not None and self._answered >= still.limit:
            self._ended = f"{still.limit:.0f} actions in a row asked for no motion (end_on_freeze)"
            self.get_logger().warning(f"control ends: {self._ended}")
            self.trigger_deactivate()

    def _on_episode(self, message: ours.Episode) -> None:
        self._episode_id = message.episode_id if message.event == ours.Episode.START else ""

    # ---- control

    def _poll(self) -> None:
        self._watch_inference()
        loop, policy = self._loop, self._policy
        if loop is None or policy is None:
            if not self._fault:
                self._diagnostics.set(WARN if self._ended else OK, f"inactive: {self._ended}".removesuffix(": "))
            return
        step = loop.poll(self._now())
        if isinstance(step, Start):
            self._infer(loop, policy, step)
        else:
            self._report_waiting(loop, step)

    def _infer(self, loop: ControlLoop, policy: Policy, step: Start) -> None:
        image: _Image = step.frame.data
        started = self._now()
        episode_id = self._episode_id

        def job() -> Prediction:
            prediction = policy.predict(conversion.rgb(image.message), step.instruction)
            if prediction.outside_action_tokens:
                raise PolicyError(
                    f"{prediction.outside_action_tokens} of the model's tokens {prediction.token_ids.tolist()} are no "
                    "action tokens: it did not mean a motion. Is the instruction in the words that it was trained on?"
                )
            return prediction

        def deliver(outcome: Prediction | Exception) -> None:
            self._inferring_since, self._hung = None, False
            self._on_result(loop, step, started, episode_id, outcome)

        self._inferring_since = time.monotonic()
        self._worker.submit(job, deliver)

    def _watch_inference(self) -> None:
        """A kernel that hangs raises nothing: only time tells, and nothing can stop its thread."""
        limit = self._settings.inference_timeout
        if self._inferring_since is None or self._hung or time.monotonic() - self._inferring_since < limit:
            return
        self._hung = True
        self._report_fault(f"an inference has not returned for {limit:g} s (inference_timeout): {_HUNG}")
        if self._loop is not None:
            self.trigger_deactivate()

    def _refuse_while_hung(self) -> bool:
        if self._hung:
            self._report_fault(f"an inference still has not returned: {_HUNG}")
        return self._hung

    def _on_result(
        self, loop: ControlLoop, step: Start, started: float, episode_id: str, outcome: Prediction | Exception
    ) -> None:
        now = self._now()
        if isinstance(outcome, Exception):
            loop.on_result(step.ticket, None, now)
            if loop is self._loop:
                self._on_inference_error(outcome)
            return
        self._last_error = ""
        if episode_id != self._episode_id:
            loop.on_result(step.ticket, None, now)
            return
        # The loop knows what else has changed since the image: instruction, stop, another activation.
        if not loop.on_result(step.ticket, self._sequence + 1, now):
            return
        self._sequence += 1
        self._actions.publish(self._action_message(step, started, now, outcome))
        self._poll()

    def _action_message(self, step: Start, started: float, ended: float, prediction: Prediction) -> ours.DeltaAction:
        assert self._policy is not None
        image: _Image = step.frame.data
        message = ours.DeltaAction(
            episode_id=self._episode_id,
            sequence=self._sequence,
            image_received=conversion.time_msg(image.received),
            inference_started=conversion.time_msg(started),
            inference_ended=conversion.time_msg(ended),
            duration=conversion.duration_msg(self._settings.loop.motion_duration),
            control_since=conversion.time_msg(self._control_since),
            instruction=step.instruction,
            unnorm_key=self._policy.unnorm_key,
            normalized=prediction.normalized.tolist(),
            token_ids=prediction.token_ids.tolist(),
        )
        message.header.stamp = image.message.header.stamp
        message.header.frame_id = self._base_frame
        conversion.fill_action(message, prediction.action)
        if prediction.details is not None:
            message.probabilities = prediction.details.probabilities.tolist()
            message.entropies = prediction.details.entropies.tolist()
            message.second_action = prediction.details.second_action.to_array().tolist()
        return message

    def _on_inference_error(self, error: Exception) -> None:
        if isinstance(error, OpenVLAError | ImageError):
            self._last_error = str(error)
            self.get_logger().warning(f"no action: {error}", throttle_duration_sec=1.0)
            self._diagnostics.set(ERROR, f"no action: {error}")
            return
        self._report_fault(_reason(error))
        self.trigger_deactivate()

    # ---- reports

    def _report_fault(self, reason: str) -> None:
        self._fault = reason
        self.get_logger().error(f"policy fault: {reason}")
        self._diagnostics.set(ERROR, f"policy fault: {reason}")

    def _report_waiting(self, loop: ControlLoop, wait: Wait) -> None:
        report = loop.report
        values = {"mode": self._settings.mode, "achieved_hz": f"{report.achieved_hz:.2f}", "waiting_for": wait.reason}
        if self._last_error:
            self._diagnostics.set(ERROR, f"no action: {self._last_error}", **values)
        elif wait.expected:
            self._diagnostics.set(OK, "in control", **values)
        else:
            self._diagnostics.set(WARN, f"waiting: {wait.detail}", **values)

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        def check() -> None:
            names = {p.name for p in changed}
            if self._loop is not None and any(n == "mode" or n.startswith("loop.") or n in RELOADS for n in names):
                raise ConfigError("the policy is active: deactivate it first (ros2 lifecycle set /policy deactivate)")
            if self._policy is not None and names & RELOADS:
                raise ConfigError(f"{', '.join(sorted(names & RELOADS))}: clean up the policy node first")
            self._settings = parameters.read(self, PolicyParameters, changed)

        return parameters.accept(check)


def main() -> int:
    # Python's own end with PyTorch and a model in it takes a second and more, of the few that the node is given.
    spin.leave(spin.run(PolicyNode))


if __name__ == "__main__":
    sys.exit(main())
