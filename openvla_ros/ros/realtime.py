"""Asks for real-time priority for a node whose delay is an arm's way to stop: safety filter and arm driver."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Set
from copy import copy
from typing import Annotated, Any

from pydantic import BaseModel, Field, create_model
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from openvla_ros.errors import ConfigError
from openvla_ros.ros import parameters, priority
from openvla_ros.ros.diagnostics import OK, WARN, Diagnostics

_PAUSE = 10.0  # [s] at normal priority for a node that computed without a pause


class RealtimeParameters(BaseModel):
    """What to ask the system for. Where it does not grant it, the node says so and runs all the same."""

    priority: int = Field(
        10,
        ge=0,
        le=49,  # the kernel's own interrupt threads have 50, and so has ros2_control
        description="real-time priority (SCHED_FIFO) to ask for; 0: none, the node runs as any other",
    )
    cpus: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="CPUs to run on, and on no other; none: any. Keep others off them (isolcpus)"
    )


def _settings(priority: int) -> type[BaseModel]:
    """A model with the parameters ``realtime.*``, the default of the priority being ``priority``."""
    field = copy(RealtimeParameters.model_fields["priority"])
    field.default = priority
    own = create_model("RealtimeParameters", __base__=RealtimeParameters, priority=(int, field))
    return create_model("Settings", realtime=(own, Field(default_factory=own)))


class Realtime:
    """Declares ``realtime.*`` on ``node``, ``default`` being the priority; `start` asks; `tend` is called now and then.

    Not for ``others``: threads that were there before the node and are not its own, such as a BLAS library's, which
    wait by computing. Main thread only: it is where signals are handled.
    """

    def __init__(self, node: Node, default: int, others: Set[int]) -> None:
        settings: Any = parameters.declare(node, _settings(default))
        self._settings: RealtimeParameters = settings.realtime
        node.add_on_set_parameters_callback(_refuse)
        self._node = node
        self._others = others - {os.getpid()}
        self._answer = priority.Answer("")
        self._overrun = -1.0  # steady clock [s]; negative: not given back
        self._is_said = True
        self._diagnostics = Diagnostics(node, task="realtime")

    def start(self) -> None:
        """To be called when the node is made, before it spins: every thread that it needs is there."""
        gc.collect()
        gc.freeze()  # what is there now stays: the collector's look at all of it takes tens of milliseconds
        if self._settings.priority == 0 and self._settings.cpus is None:
            self._diagnostics.set(OK, "not asked for: realtime.priority is 0")
            return
        signal.signal(signal.SIGXCPU, self._on_overrun)
        self._answer = self._ask()
        log = self._node.get_logger()
        if self._answer.missing:
            log.warning(f"{self._answer.missing}. Instead: {self._answer.got}. A stop may come late on a busy machine.")
        else:
            log.info(f"runs with {self._answer.got}")
        self._say()

    def tend(self) -> None:
        """Say that the priority was given back, and in time take it up again."""
        if not self._is_said:
            self._say()
        if self._overrun >= 0.0 and time.monotonic() - self._overrun >= _PAUSE:
            self._overrun = -1.0
            self._ask()
            time.sleep(0.001)  # sleeping as a real-time thread is what sets the kernel's count of its computing back
            self._say()

    def _ask(self) -> priority.Answer:
        return priority.ask(priority.threads() - self._others, self._settings.priority, self._settings.cpus)

    def _on_overrun(self, number: int, frame: object) -> None:
        """In the main thread, in the midst of whatever it computes."""
        priority.give_back(priority.threads() - self._others)
        self._overrun = time.monotonic()
        self._is_said = False  # here a publisher may be in the midst of its work
        self._node.get_logger().error(
            f"computed for {priority.BUDGET:g} s without a pause: normal priority for the next {_PAUSE:g} s"
        )

    def _say(self) -> None:
        self._is_said = True
        if self._overrun >= 0.0:
            self._diagnostics.set(WARN, f"given back: computed for {priority.BUDGET:g} s without a pause")
        elif self._answer.missing:
            self._diagnostics.set(WARN, f"{self._answer.got}; {self._answer.missing}")
        else:
            self._diagnostics.set(OK, self._answer.got)


def _refuse(changed: list[Parameter]) -> SetParametersResult:
    def check() -> None:
        names = [p.name for p in changed if p.name.startswith("realtime.")]
        if names:
            raise ConfigError(f"{', '.join(names)} can't be changed while the node runs: restart it")

    return parameters.accept(check)
