"""Image sizes on the command line."""

from __future__ import annotations

import re

from openvla_ros.errors import ConfigError

_SMALLEST, _LARGEST = 16, 640


def image_size(text: str) -> tuple[int, int]:
    """(width, height) of 'N' or 'WIDTHxHEIGHT'. Raises ConfigError."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    width, height = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not (_SMALLEST <= width <= _LARGEST and _SMALLEST <= height <= 480):
        raise ConfigError(f"--size is {text!r}; give N or WIDTHxHEIGHT in pixels, {_SMALLEST} to 640x480")
    return width, height
