"""A way around Fast DDS's shared memory that stays broken where a killed process is started again.

Whoever wrote to the killed one may go on writing into memory that nobody reads, for ever, if the new process gets the
same port (Fast DDS issues 5053 and 5469). So a process of ours takes no port on which a reader was killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from rclpy.context import Context

# The memory of a port in a process that reads or writes it, and whether its file is gone: replaced after a crash.
_MAPPED = re.compile(r"(/\S*/fastrtps_port(\d+))( \(deleted\))?$", re.MULTILINE)
# Ports of a participant, from the RTPS specification, 9.6.1: two for each, of which the second one carries data.
_BASE, _A_DOMAIN, _FIRST, _A_PARTICIPANT = 7400, 250, 10, 2
# Where only this machine is searched for peers (ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST), rmw_fastrtps asks 32
# participants: half of them are left, however many crashed.
_MOST = 16


@contextlib.contextmanager
def fresh_port(context: Context) -> Iterator[None]:
    """Inside, the first node of ``context`` is to be made: its participant gets no port on which a reader was killed."""
    first = _BASE + _A_DOMAIN * context.get_domain_id() + _FIRST
    broken = {divmod(port - first, _A_PARTICIPANT) for port in _broken_ports()}
    with contextlib.ExitStack() as held:
        for participant in [i for i, kind in sorted(broken) if 0 <= i < 2 * _MOST and kind == 1][:_MOST]:
            for port in range(first + _A_PARTICIPANT * participant, first + _A_PARTICIPANT * (participant + 1)):
                taken = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                with contextlib.suppress(OSError):  # somebody has it: all the better
                    taken.bind(("0.0.0.0", port))
        yield


def _broken_ports() -> set[int]:
    """The shared-memory ports that another process of this machine has open, and whose reader was killed."""
    locked = _locked_files()
    ports = set()
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            for path, port, deleted in _MAPPED.findall((process / "maps").read_text(errors="replace")):
                if deleted or _is_left_behind(Path(f"{path}_el"), locked):
                    ports.add(int(port))
    return ports


def _is_left_behind(lock: Path, locked: set[int]) -> bool:
    """Whether a reader's lock file is there without its reader, who deletes it at an orderly end."""
    try:
        return lock.stat().st_ino not in locked
    except FileNotFoundError:
        return False


def _locked_files() -> set[int]:
    """The inodes of all locked files."""
    lines = Path("/proc/locks").read_text().splitlines()  # ordinal: FLOCK ADVISORY WRITE pid device:device:inode ...
    return {int(field.rpartition(":")[2]) for line in lines for field in line.split()[5:6] if field.count(":") == 2}
