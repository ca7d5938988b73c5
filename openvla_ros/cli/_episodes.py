"""What the verbs that act on recorded episodes share."""

from __future__ import annotations

from pathlib import Path

from openvla_ros.errors import RecordingError


def default_folder() -> Path:
    """Where the recorder puts episodes unless told otherwise."""
    from openvla_ros.recording.recorder import RecorderSettings

    return RecorderSettings().folder


def episode_folder(name: str) -> Path:
    """An episode by its path, or by its name in the default folder. Raises RecordingError."""
    places = [Path(name), default_folder() / name]
    for place in places:
        if place.exists():
            return place.resolve()
    raise RecordingError(f"there is no episode {places[0]}, nor {places[1]}: `openvla-ros episodes` lists those there")
