"""The parameters of another node, asked for without waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient

ASK_PERIOD = 1.0  # [s] after which a question is asked again: DDS loses answers to a client that it has just met


class Every:
    """``due`` is true at most once a ``period`` [s]."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._next = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._period
        return True


class RemoteParameters:
    """``values`` once they have come; ``on_values`` is called then, and after every `request` again."""

    def __init__(self, node: Node, name: str, on_values: Callable[[], None]) -> None:
        self._client = AsyncParameterClient(node, name)
        self._on_values = on_values
        self._wanted = True
        self._ask_again = Every(ASK_PERIOD)
        self.values: dict[str, Any] = {}

    def look(self) -> None:
        """Ask until there is an answer; has to be called now and then."""
        if not self._client.services_are_ready():
            self._wanted = True  # whoever comes next may have other values
        elif self._wanted and self._ask_again.due():
            self._client.list_parameters(callback=self._on_list)

    def request(self) -> None:
        """Ask again."""
        self._wanted = True
        self._ask_again = Every(ASK_PERIOD)
        self.look()

    def _on_list(self, future: Any) -> None:
        names = list(future.result().result.names)
        self._client.get_parameters(names, callback=lambda f: self._on_get(names, f))

    def _on_get(self, names: list[str], future: Any) -> None:
        values = [parameter_value_to_python(v) for v in future.result().values]
        self.values = {n: v for n, v in zip(names, values, strict=True) if n != "use_sim_time"}
        self._wanted = False
        self._on_values()
