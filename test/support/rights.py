"""What the system grants a process, taken away: for a child, before it starts."""

from __future__ import annotations

import ctypes
import resource

_PR_CAPBSET_DROP, _CAP_SYS_NICE = 24, 23  # of linux/prctl.h, linux/capability.h


def renounce_priority() -> None:
    """No real-time priority, no negative nice: what a user has who was given no right, also where root runs the tests.

    For ``preexec_fn``.
    """
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_NICE, 0, 0, 0)  # fails for those who have none to lose
    for limit in (resource.RLIMIT_RTPRIO, resource.RLIMIT_NICE):
        resource.setrlimit(limit, (0, 0))
