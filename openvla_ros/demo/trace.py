"""What happened in a graph, as plain values: one record an action, and the measured path. No ROS."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from openvla_ros.types import Array, Pose

HOPS = (
    # name, from stamp, to stamp
    ("camera -> policy", "image", "image_received"),
    ("image waits for its turn", "image_received", "inference_started"),
    ("inference", "inference_started", "inference_ended"),
    ("policy -> filter", "inference_ended", "filter_received"),
    ("safety filter", "filter_received", "decided"),
    ("filter -> driver", "decided", "driver_received"),
    ("driver: IK, to controller", "driver_received", "command_sent"),
    ("arm moves", "command_sent", "outcome"),
)


@dataclass
class Step:
    """One action on its way. ``stamps``: seconds of the ROS clock by the names that HOPS uses, as far as it came."""

    sequence: int
    instruction: str
    mode: str
    stamps: dict[str, float] = field(default_factory=dict)
    verdict: str = ""
    outcome: str = ""

    def span(self, start: str, end: str) -> float | None:
        """Seconds between two stamps, None if the action did not come that far."""
        if start in self.stamps and end in self.stamps:
            return self.stamps[end] - self.stamps[start]
        return None


@dataclass
class Sample:
    """Commanded and measured pose at one time [s of the ROS clock]."""

    time: float
    measured: Pose
    commanded: Pose | None
    gripper: float


@dataclass
class Trace:
    """Everything that a report needs."""

    steps: dict[int, Step] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)  # (mode, rule) -> actions
    events: list[tuple[float, str]] = field(default_factory=list)  # (time, what the operator did)
    seconds: Counter[str] = field(default_factory=Counter)  # mode -> time in control
    images: int = 0

    def of_mode(self, mode: str) -> list[Step]:
        return [s for s in self.steps.values() if s.mode == mode]

    def achieved_hz(self, mode: str) -> float:
        """Actions a second while this mode was in control."""
        return len(self.of_mode(mode)) / self.seconds[mode] if self.seconds[mode] else 0.0

    def hop(self, mode: str, start: str, end: str) -> Array:
        """(n,) seconds of one hop over all actions of a mode that made it."""
        spans = [s.span(start, end) for s in self.of_mode(mode)]
        return np.array([s for s in spans if s is not None])

    def tracking_error(self) -> Array:
        """(n,) distance [m] between commanded and measured end-effector position."""
        return np.array(
            [
                np.linalg.norm(s.commanded.position - s.measured.position)
                for s in self.samples
                if s.commanded is not None
            ]
        )
