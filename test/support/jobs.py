"""A job for worker processes, which must be able to import it."""

from __future__ import annotations

import os
import signal

from openvla_ros.errors import ConfigError

UNLUCKY, DEADLY = 13, 99


class Add:
    """Adds a number; one job raises, one kills its process."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, job: int) -> int:
        if job == UNLUCKY:
            raise ConfigError("13 brings bad luck")
        if job == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return job + self._number
