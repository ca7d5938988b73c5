"""The parameters of another node, asked for without waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient


class RemoteParameters:
    """``values`` once they have come; ``on_values`` is called then, and after every `request` again."""

    def __init__(self, node: Node, name: str, on_values: Callable[[], None]) -> None:
        self._client = AsyncParameterClient(node, name)
        self._on_values = on_values
        self._asked = False
        self.values: dict[str, Any] = {}

    def look(self) -> None:
        """Ask once it is there, and again when it has come back."""
        ready = self._client.services_are_ready()
        if ready and not self._asked:
            self.request()
        self._asked = ready

    def request(self) -> None:
        if self._client.services_are_ready():
            self._client.list_parameters(callback=self._on_list)

    def _on_list(self, future: Any) -> None:
        names = list(future.result().result.names)
        self._client.get_parameters(names, callback=lambda f: self._on_get(names, f))

    def _on_get(self, names: list[str], future: Any) -> None:
        values = [parameter_value_to_python(v) for v in future.result().values]
        self.values = {n: v for n, v in zip(names, values, strict=True) if n != "use_sim_time"}
        self._on_values()
