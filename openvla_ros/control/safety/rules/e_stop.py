"""With a timeout configured, the arm moves only while the stop button is heard: a dead button cannot stop anything."""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, silence
from openvla_ros.types import RuleReport


class EStopSilence:
    def __init__(self, config: SafetyConfig) -> None:
        self._timeout = config.e_stop.timeout_s

    def __call__(self, context: Context) -> RuleReport | None:
        return silence(
            "e_stop", "nothing heard on the e_stop topic for [s]", context.e_stop_heard, self._timeout, context.now
        )
