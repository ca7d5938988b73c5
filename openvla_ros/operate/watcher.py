"""Fills a Trace from the topics of a running graph."""

from __future__ import annotations

from sensor_msgs.msg import Image

import openvla_ros.msg as ours
from openvla_ros.images import ImageError
from openvla_ros.operate.operator import Operator
from openvla_ros.recording.trace import STATES, Trace
from openvla_ros.recording.video import VideoWriter
from openvla_ros.ros import conversion, qos


class Watcher:
    """Watches every topic of the graph through an operator. ``mode`` is what new steps are filed under."""

    def __init__(self, operator: Operator, video: VideoWriter | None = None) -> None:
        self.trace = Trace()
        self.mode = ""
        self.instruction = ""
        self.image: Image | None = None  # the newest
        self.state = "waiting"
        self.judged: list[tuple[str, str]] = []  # control mode, and what was judged in it, in words
        self.reasons: list[str] = []
        self._operator = operator
        self._video = video
        operator.watch(ours.DeltaAction, "action", qos.LATEST, lambda m: self.trace.on_action(m, self.mode))
        operator.watch(ours.SafeCommand, "command", qos.LATEST, lambda m: self.trace.on_command(m, self.mode))
        operator.watch(ours.SafetyStatus, "safety_status", qos.STATUS, self._on_status)
        operator.watch(ours.ArmState, "arm_state", qos.LATEST, self.trace.on_arm_state)
        operator.watch(Image, "image", qos.CAMERA, self._on_image)

    def event(self, what: str) -> None:
        """Note something that the operator did, now."""
        self.trace.events.append((self._operator.now(), what))

    def _on_status(self, message: ours.SafetyStatus) -> None:
        self.state = STATES[message.state]
        self.reasons = [r.rule for r in message.reports]
        self.trace.on_status(message, self.mode)

    def _on_image(self, message: Image) -> None:
        self.trace.images += 1
        self.image = message
        if self._video is not None:
            try:
                image = conversion.rgb(message)
            except ImageError:
                return  # the policy reports it; a video without that frame is still a video
            why = f" ({', '.join(self.reasons)})" if self.reasons else ""
            caption = [
                self.instruction or "(no instruction)",
                f"{self.mode.replace('_', '-') or 'no'} control, filter {self.state}{why}",
                "; ".join(words for mode, words in self.judged if mode == self.mode),
            ]
            self._video.write(image, conversion.seconds(message.header.stamp), caption)
