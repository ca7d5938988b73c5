"""Non-blocking control: a step every period on the newest image, while the arm goes on executing."""

from __future__ import annotations

from openvla_ros.control.loops.base import BaseLoop, Wait


class NonBlocking(BaseLoop):
    """Where inference is slower than the period, the achieved rate drops and is reported; nothing is caught up."""

    def _blocked(self, now: float) -> Wait | None:
        return None
