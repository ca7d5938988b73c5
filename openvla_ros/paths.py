"""Where the package's own files lie: config/ and resource/, in a source tree, a ROS prefix or a pip environment."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from openvla_ros.errors import ConfigError


@cache
def share_dir() -> Path:
    """The folder that holds config/ and resource/: the source tree, or share/openvla_ros of the first such prefix."""
    source_tree = Path(__file__).resolve().parents[1]
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p] + [sys.prefix]
    candidates = [source_tree, *(Path(p) / "share" / "openvla_ros" for p in prefixes)]
    for candidate in candidates:
        if (candidate / "config").is_dir() and (candidate / "resource").is_dir():
            return candidate
    places = ", ".join(map(str, candidates))
    raise ConfigError(f"openvla_ros's config/ and resource/ folders are in none of {places}: install the package again")


def config_file(*parts: str) -> Path:
    """A file under config/, which need not exist yet to be named."""
    return share_dir().joinpath("config", *parts)


def resource_file(*parts: str) -> Path:
    """A file under resource/."""
    return share_dir().joinpath("resource", *parts)
