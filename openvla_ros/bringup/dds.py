"""On which transport the nodes talk: config/fastdds*.xml, by what the kernel allows, unless the user has chosen."""

from __future__ import annotations

import os
import socket
import sys

from openvla_ros.paths import config_file

_PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"
_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
_UDP, _SHARED_MEMORY, _LOCAL = "fastdds.xml", "fastdds_shm.xml", "fastdds_local.xml"
_IMAGE_BUFFER = 4194304  # [bytes] as fastdds.xml asks for


def kernel_takes_images() -> bool:
    """Whether a UDP socket may have a buffer for whole camera images: else half of them would be lost."""
    return _granted_buffer() >= _IMAGE_BUFFER


def _granted_buffer() -> int:
    """[bytes] that a socket gets which asks for an image's. Asked of a socket: in a container no file says it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _IMAGE_BUFFER)
        granted = asking.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return granted // 2 if sys.platform == "linux" else granted  # Linux counts its own bookkeeping in, see socket(7)


def warning() -> str:
    """What a user should know of this machine; empty where nothing."""
    if kernel_takes_images() or _is_users_own():
        return ""
    limit = _granted_buffer()
    return (
        f"net.core.rmem_max is {limit}: no room for a camera image in a socket. Nodes with images use shared memory, "
        f"which a killed node can break for the others. Better: sudo sysctl -w net.core.rmem_max={_IMAGE_BUFFER}"
    )


def environment(images: bool = False) -> dict[str, str]:
    """What a node process needs; ``images``: it takes or gives camera images.

    Shared memory only where images would be lost without it: a process that is killed can stop its peers there.
    """
    if _is_users_own():
        return {}
    return {_PROFILES: str(config_file(_SHARED_MEMORY if images and not kernel_takes_images() else _UDP))}


def local_environment(domain: int) -> dict[str, str]:
    """The environment of a graph in a ROS ``domain`` of its own, of which nothing leaves this machine."""
    own = {"ROS_DOMAIN_ID": str(domain)}
    if _is_users_own():
        return own
    if not os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp").startswith("rmw_fastrtps"):
        return {**own, _RANGE: "LOCALHOST"}
    if kernel_takes_images():
        return {**own, _RANGE: "SUBNET", _PROFILES: str(config_file(_LOCAL))}  # LOCALHOST would add shared memory
    return {**own, _RANGE: "LOCALHOST", _PROFILES: str(config_file(_SHARED_MEMORY))}


def _is_users_own() -> bool:
    """Whether the profile is not ours to choose: another file, or the local one."""
    return os.environ.get(_PROFILES, "") not in ("", str(config_file(_UDP)), str(config_file(_SHARED_MEMORY)))
