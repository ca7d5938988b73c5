"""The commanded pose moves no faster than the limit, however often actions come.

The time that counts is the step's duration or, if shorter, the time since the last accepted action. So over any span
the path commanded is at most speed x span, and a driver that interpolates linearly never exceeds the speed either: what
is left of the last motion plus the new step fits into the new duration.
"""

from __future__ import annotations

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.motion import Context, Motion, limit_lengths
from openvla_ros.types import RuleReport

CODE = "speed"


class Speed:
    def __init__(self, config: SafetyConfig) -> None:
        self._config = config.motion

    def __call__(self, motion: Motion, context: Context) -> tuple[Motion, list[RuleReport]]:
        time = context.time_for(motion)
        metres, radians = self._config.max_speed_m_s * time, self._config.max_speed_rad_s * time
        return limit_lengths(motion, CODE, metres, radians, f"fastest in {time:.3f} s")
