"""Message types without a sourced ROS: their definitions, as bags carry them, and (de)serialization by them."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from openvla_ros.errors import RecordingError
from openvla_ros.paths import share_dir

_SEPARATOR = "=" * 80


@cache
def typestore() -> Typestore:
    """The common ROS messages and this package's own. Others join as `ensure_type` finds them installed."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for file in sorted((share_dir() / "msg").glob("*.msg")):
        types |= get_types_from_msg(file.read_text(), f"openvla_ros/msg/{file.stem}")
    if not types:
        raise RecordingError(f"no message definitions in {share_dir() / 'msg'}: install the package again")
    store.register(types)
    return store


def ensure_type(typename: str) -> Typestore:
    """The typestore, which knows ``typename`` ("sensor_msgs/msg/Image"). Raises RecordingError where nothing does."""
    store = typestore()
    if typename not in store.fielddefs:
        file = _definition_file(typename)
        if file is None:
            raise RecordingError(
                f"no definition of {typename}: neither a common ROS message nor installed under AMENT_PREFIX_PATH "
                f"(share/PACKAGE/msg/NAME.msg); source the workspace that has it"
            )
        store.register(get_types_from_msg(file.read_text(), typename))
        for name in _parts(typename):
            ensure_type(name)
    return store


@cache
def definition(typename: str) -> str:
    """The ros2msg schema of a type as rosbag2 writes it: its .msg text, then that of every type it holds."""
    ensure_type(typename)
    texts, waiting, seen = [_text(typename)], _parts(typename), {typename}
    while waiting:
        name = waiting.pop(0)
        if name not in seen:
            seen.add(name)
            waiting += _parts(name)
            texts.append(f"{_SEPARATOR}\nMSG: {name.replace('/msg/', '/')}\n{_text(name)}")
    return "\n".join(texts)


def type_hash(typename: str) -> str:
    """The RIHS01 hash of a type, as publishers announce it."""
    return ensure_type(typename).hash_rihs01(typename)


def typestore_from(schemas: dict[str, str]) -> Typestore:
    """A typestore that knows exactly the definitions {type name: ros2msg text} of a bag."""
    store = get_typestore(Stores.EMPTY)
    types: dict[str, Any] = {}
    for name, text in schemas.items():
        try:
            types |= get_types_from_msg(text, name)
        except TypesysError as error:
            raise RecordingError(f"the bag's definition of {name} can't be read: {error}") from None
    store.register(types)
    return store


def _text(typename: str) -> str:
    """The .msg file where there is one, for its comments; else the same fields and constants without."""
    file = _definition_file(typename)
    if file is not None:
        return file.read_text()
    return typestore().generate_msgdef(typename, ros_version=2)[0].partition(_SEPARATOR)[0]


def _definition_file(typename: str) -> Path | None:
    package, _, name = typename.split("/")
    if package == "openvla_ros":
        return share_dir() / "msg" / f"{name}.msg"
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    files = (prefix / "share" / package / "msg" / f"{name}.msg" for prefix in prefixes)
    return next((f for f in files if f.is_file()), None)


def _parts(typename: str) -> list[str]:
    """The message types of a type's fields, in order."""
    found = []
    for _, field in typestore().fielddefs[typename][1]:
        element: Any = field[1][0] if field[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE) else field
        if element[0] == Nodetype.NAME:
            found.append(str(element[1]))
    return found
