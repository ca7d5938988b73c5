"""With a timeout configured, the arm moves only while images come that the policy can use; else it holds at once.

Without one, what was begun on the last good image is carried out: an inference in flight, and the motion after it.
"""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, silence
from openvla_ros.types import RuleReport, StampedAction


class CameraSilence:
    """Holds the arm, without a latch, while it reports."""

    def __init__(self, config: SafetyConfig) -> None:
        self._timeout = config.camera.timeout_s

    def __call__(self, context: Context) -> RuleReport | None:
        detail = "no image that the policy can use for [s]; its diagnostics say why"
        return silence("camera", detail, context.camera_heard, self._timeout, context.now)


class CameraGate:
    """Lets no action pass meanwhile: an inference that was in flight ends after the camera has."""

    def __init__(self, config: SafetyConfig) -> None:
        self._silence = CameraSilence(config)

    def __call__(self, action: StampedAction, context: Context) -> list[RuleReport]:
        report = self._silence(context)
        return [report] if report else []
