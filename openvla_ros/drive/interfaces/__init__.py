"""Command interfaces: what an arm's own driver listens to. One module and one line here for each."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from openvla_ros.errors import ConfigError

INTERFACES = {
    "joint_trajectory": "openvla_ros.drive.interfaces.joint_trajectory",
}


def load_interface(name: str) -> ModuleType:
    """The module of a command interface. Raises ConfigError listing those there are."""
    if name not in INTERFACES:
        raise ConfigError(f"no command interface {name!r}; there are {sorted(INTERFACES)}")
    return import_module(INTERFACES[name])
