"""With what software, on what machine."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import openvla_ros


@cache
def software() -> dict[str, Any]:
    """Version, git commit and whether the sources were changed since; None where there is no git."""
    found: dict[str, Any] = {"openvla_ros": openvla_ros.__version__, "python": platform.python_version()}
    found |= {"ros_distro": os.environ.get("ROS_DISTRO", "")}
    for package in ("torch", "numpy", "mujoco", "mcap", "rosbags"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    # A symlink install leads back to the sources.
    sources = Path(__file__).resolve().parents[2]
    commit = _git(sources, "rev-parse", "HEAD") if (sources / ".git").exists() else None
    changed = _git(sources, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {**found, "git_commit": commit, "git_changed": None if changed is None else bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def machine() -> dict[str, Any]:
    """Processor, usable cores, memory, system. GPUs stand in the policy's description."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "host": platform.node(),
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(terse=True),
    }
