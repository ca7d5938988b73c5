"""Fills a Trace from the topics of a running graph."""

from __future__ import annotations

from sensor_msgs.msg import Image

from openvla_ros import msg as ours
from openvla_ros.demo.trace import Sample, Step, Trace
from openvla_ros.demo.video import VideoWriter
from openvla_ros.images import ImageError
from openvla_ros.nodes import _convert, _qos
from openvla_ros.nodes._operator import Operator

VERDICTS = {
    ours.SafetyStatus.ACCEPTED: "accepted",
    ours.SafetyStatus.LIMITED: "limited",
    ours.SafetyStatus.REFUSED: "refused",
}
STATES = {
    ours.SafetyStatus.WAITING: "waiting",
    ours.SafetyStatus.ACTIVE: "active",
    ours.SafetyStatus.HOLDING: "holding",
    ours.SafetyStatus.STOPPED: "STOPPED",
}
OUTCOMES = {
    ours.ArmState.ARRIVED: "arrived",
    ours.ArmState.TIMED_OUT: "timed out",
    ours.ArmState.REFUSED: "refused by the driver",
    ours.ArmState.HELD: "held",
}


class Watcher:
    """Watches every topic of the graph through an operator. ``mode`` is what new steps are filed under."""

    def __init__(self, operator: Operator, video: VideoWriter | None = None) -> None:
        self.trace = Trace()
        self.mode = ""
        self.instruction = ""
        self.state = "waiting"
        self.reasons: list[str] = []
        self._operator = operator
        self._video = video
        operator.watch(ours.DeltaAction, "action", _qos.LATEST, self._on_action)
        operator.watch(ours.SafeCommand, "command", _qos.LATEST, self._on_command)
        operator.watch(ours.SafetyStatus, "safety_status", _qos.STATUS, self._on_status)
        operator.watch(ours.ArmState, "arm_state", _qos.LATEST, self._on_arm_state)
        operator.watch(Image, "image", _qos.CAMERA, self._on_image)

    def event(self, what: str) -> None:
        """Note something that the operator did, now."""
        self.trace.events.append((self._operator.now(), what))

    def _step(self, sequence: int) -> Step:
        return self.trace.steps.setdefault(sequence, Step(sequence, self.instruction, self.mode))

    def _on_action(self, message: ours.DeltaAction) -> None:
        step = self._step(message.sequence)
        step.instruction = message.instruction
        step.stamps["image"] = _convert.seconds(message.header.stamp)
        for name in ("image_received", "inference_started", "inference_ended"):
            step.stamps[name] = _convert.seconds(getattr(message, name))

    def _on_command(self, message: ours.SafeCommand) -> None:
        if message.action_sequence:
            step = self._step(message.action_sequence)
            step.stamps["filter_received"] = _convert.seconds(message.action_received)
            step.stamps["decided"] = _convert.seconds(message.decided)

    def _on_status(self, message: ours.SafetyStatus) -> None:
        self.state = STATES[message.state]
        self.reasons = [r.rule for r in message.reports]
        if message.verdict != ours.SafetyStatus.NO_ACTION:
            step = self._step(message.action_sequence)
            step.verdict = VERDICTS[message.verdict]
            self.trace.reasons.update((step.mode, rule) for rule in self.reasons)

    def _on_arm_state(self, message: ours.ArmState) -> None:
        commanded = _convert.pose(message.target) if message.command_sequence else None
        self.trace.samples.append(
            Sample(
                _convert.seconds(message.header.stamp), _convert.pose(message.end_effector), commanded, message.gripper
            )
        )
        # A hold command answers no action; its outcome is not that of a step.
        if message.action_sequence in self.trace.steps:
            step = self.trace.steps[message.action_sequence]
            step.stamps.setdefault("driver_received", _convert.seconds(message.command_received))
            step.stamps.setdefault("command_sent", _convert.seconds(message.command_sent))
            if message.outcome in OUTCOMES and not step.outcome:
                step.outcome = OUTCOMES[message.outcome]
                if message.outcome == ours.ArmState.ARRIVED:
                    step.stamps["outcome"] = _convert.seconds(message.outcome_stamp)

    def _on_image(self, message: Image) -> None:
        self.trace.images += 1
        if self._video is not None:
            try:
                image = _convert.rgb(message)
            except ImageError:
                return  # the policy reports it; a video without that frame is still a video
            caption = [
                self.instruction or "(no instruction)",
                f"{self.mode.replace('_', '-')} control, filter {self.state}",
            ]
            caption.append(", ".join(self.reasons))
            self._video.write(image, _convert.seconds(message.header.stamp), caption)
