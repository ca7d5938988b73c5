"""The filter with the arm rules on, the driver behind it, and an arm that does at once what it is told."""

from __future__ import annotations

from typing import Any

import numpy as np
from judged_arm import JudgedArm, config, parts

from openvla_ros.control.safety import Decision
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Array, Outcome

__all__ = ["ArmScene", "parts", "share"]


class ArmScene(JudgedArm):
    """Without ramp-in. ``refusals``: what the driver said to commands that it refused."""

    def __init__(self, name: str = "wx250s", q: Array | None = None, **sections: Any) -> None:
        sections.setdefault("ramp_in", {"duration_s": 0.0})
        self.refusals: list[str] = []
        self.config = config(name, **sections)
        super().__init__(name, self.config, q=None if q is None else np.array(q, dtype=np.float64))

    def tick(self, dt: float = 0.0) -> Decision:
        """Time passes."""
        self.run(dt)
        return self.decisions[-1]

    def step(self, xyz: Any = (0, 0, 0), rpy: Any = (0, 0, 0), dt: float = 0.2, duration: float = 0.2) -> Decision:
        """An action, and what comes of it until the next one."""
        decision = self.act(xyz, rpy, duration)
        self.run(dt)
        return decision

    def _send(self, told: Trajectory | None, kind: str = "told") -> None:
        super()._send(told, kind)
        if self.driver.outcome is Outcome.REFUSED:
            self.refusals.append(self.driver.detail)


def share(decision: Decision) -> float:
    """Of the largest step, how much was passed on: of translation or rotation, whichever is more."""
    if decision.filtered is None:
        return 0.0
    return float(max(abs(decision.filtered.translation).max() / 0.05, abs(decision.filtered.rotation).max() / 0.25))
