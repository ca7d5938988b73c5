"""What writes the bags: the built-in recorder, or rosbag2's. Chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from openvla_ros.errors import ConfigError
from openvla_ros.recording.provenance import Provenance
from openvla_ros.recording.recorder import Change, Received, Recorder, RecorderSettings, Topics
from openvla_ros.recording.rosbag2 import Rosbag2Recorder


class Backend(Protocol):
    """As `Recorder`. ``takes_messages``: whether it wants them by `put`, or subscribes itself."""

    takes_messages: bool
    folder: Path | None
    problem: str
    dropped: int
    messages: int
    waiting_mb: float

    def start(self, about: Provenance, topics: Topics, before: list[Received]) -> Path: ...
    def announce(self, topics: Topics) -> None: ...
    def put(self, message: Received) -> None: ...
    def update(self, change: Change) -> None: ...
    def stop(self, change: Change) -> Path | None: ...
    def close(self) -> None: ...


def make_backend(name: str, settings: RecorderSettings, topics: Sequence[str]) -> Any:
    """The backend ``name`` for absolute ``topics``. Raises ConfigError."""
    if name == "builtin":
        return Recorder(settings)
    if name == "rosbag2":
        return Rosbag2Recorder(settings, topics)
    raise ConfigError(f"backend '{name}' is not one of builtin, rosbag2")
