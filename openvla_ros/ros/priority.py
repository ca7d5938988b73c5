"""What the kernel grants threads that must not wait for others: real-time priority, or else what comes next best.

SCHED_FIFO, which needs a right (docs/install.md), else negative nice, which needs one too. For threads of this process,
by their ids. Linux only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path

FILTER, DRIVER = 10, 11  # real-time priorities: on too few cores whoever is nearer to the arm holds it first
NICE = -11  # what is asked for where there is no real-time priority
BUDGET = 0.5  # [s] of computing without a pause after which a real-time thread gets SIGXCPU
LAST = 3.0  # [s] after which the kernel kills it: neither Python's handler nor anything else has come through


@dataclass(frozen=True)
class Answer:
    """``got``: how the threads run now. ``missing``: what was refused, why, and what grants it; empty: nothing."""

    got: str
    missing: str = ""


def threads() -> set[int]:
    """The kernel's ids of all threads of this process."""
    return {int(entry.name) for entry in Path("/proc/self/task").iterdir()}


def ask(wanted: Set[int], priority: int, cpus: Iterable[int] | None = None) -> Answer:
    """SCHED_FIFO with ``priority`` (0: not asked for) for ``wanted``, which run on ``cpus`` alone where some are named.

    Whatever is refused is in the answer and is no error. A thread that has ended meanwhile is left out.
    """
    got, missing = [], []
    refused = _real_time(wanted, priority) if priority else ""
    if not priority:
        got.append("normal priority")
    elif not refused:
        got.append(f"real-time priority {priority} (SCHED_FIFO)")
    else:
        got.append(_nice(wanted) or "normal priority")
        missing.append(f"no real-time priority: {refused}. {how_to_grant(priority)}")
    if cpus is not None:
        names, problem = ", ".join(map(str, sorted(cpus))), _pin(wanted, set(cpus))
        (missing if problem else got).append(problem or f"on CPU {names} alone")
    return Answer(", ".join(got), "; ".join(missing))


def how_to_grant(priority: int) -> str:
    """What a person has to do, on one line."""
    user = "root" if os.geteuid() == 0 else os.environ.get("USER", "USER")
    return (
        f"To grant it: echo '{user} - rtprio {priority}' | sudo tee /etc/security/limits.d/60-openvla-ros.conf, "
        f"and log in again; in a systemd unit LimitRTPRIO={priority}; "
        f"in a container docker run --cap-add=SYS_NICE --ulimit rtprio={priority}"
    )


def give_back(wanted: Set[int]) -> None:
    """Normal priority for ``wanted``."""
    for thread in wanted:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def limit_computing() -> None:
    """Bound how long a real-time thread computes without a pause, before it is one: BUDGET, LAST.

    A loop without end at real-time priority would leave a machine to nobody else, a shell to end it included.
    """
    _, most = resource.getrlimit(resource.RLIMIT_RTTIME)
    last = round(LAST * 1e6)
    if most != resource.RLIM_INFINITY:
        last = min(last, most)
    resource.setrlimit(resource.RLIMIT_RTTIME, (min(round(BUDGET * 1e6), last), last))


def _real_time(wanted: Set[int], priority: int) -> str:
    """Why not; empty: done. All of them or none."""
    try:
        limit_computing()
        for thread in wanted:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        give_back(wanted)
        if error.errno != errno.EPERM:
            return f"the kernel says {error.strerror}"
        allowed, _ = resource.getrlimit(resource.RLIMIT_RTPRIO)
        if allowed < priority:
            return f"this process may have {allowed}, not {priority} (ulimit -r)"
        return "the control group of this process has no share of it (cpu.rt_runtime_us)"
    return ""


def _nice(wanted: Set[int]) -> str:
    """What was granted; empty: nothing."""
    try:
        for thread in wanted:
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, thread, min(NICE, os.getpriority(os.PRIO_PROCESS, thread)))
    except PermissionError:
        return ""
    # With autogroups nice counts within a session only, and between sessions that of the session.
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICE))
    return f"nice {NICE}"


def _pin(wanted: Set[int], cpus: set[int]) -> str:
    """Why not; empty: done."""
    allowed = os.sched_getaffinity(0)
    if not cpus <= allowed:
        return (
            f"not on CPU {', '.join(map(str, sorted(cpus)))} alone: this process may run on "
            f"{', '.join(map(str, sorted(allowed)))}; name some of these, or allow more (docker run --cpuset-cpus)"
        )
    for thread in wanted:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(thread, cpus)
    return ""
