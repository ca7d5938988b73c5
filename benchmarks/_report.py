"""What every benchmark prints beside its numbers: the machine and the versions they were measured with."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine_line(packages: Sequence[str] = ("torch", "numpy")) -> str:
    """One line: processor, usable cores, system, Python, and the versions of ``packages`` (or 'absent')."""
    cores = len(os.sched_getaffinity(0))
    parts = [f"{_processor()}, {cores} cores", platform.platform(terse=True), f"Python {platform.python_version()}"]
    return " | ".join([*parts, *(f"{name} {_version(name)}" for name in packages)])


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
