"""The control modes by name. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from openvla_ros.control.loops.base import ControlLoop, Frame, LoopConfig, LoopReport, Start, Wait
from openvla_ros.control.loops.blocking import Blocking
from openvla_ros.control.loops.non_blocking import NonBlocking
from openvla_ros.errors import ConfigError

__all__ = ["LOOPS", "ControlLoop", "Frame", "LoopConfig", "LoopReport", "Start", "Wait", "make_loop"]

LOOPS: dict[str, Callable[[LoopConfig], ControlLoop]] = {
    "non_blocking": NonBlocking,
    "blocking": Blocking,
}


def make_loop(name: str, config: LoopConfig) -> ControlLoop:
    """The control loop of that name, not yet started. Raises ConfigError for an unknown one."""
    if name not in LOOPS:
        raise ConfigError(f"control mode {name!r} does not exist; choose one of {', '.join(LOOPS)}")
    return LOOPS[name](config)
