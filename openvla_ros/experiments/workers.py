"""One job after another on several cores: each process makes what it needs once, and keeps it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from openvla_ros.errors import OpenVLAError

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h

Job = TypeVar("Job")
Result = TypeVar("Result")

_work: Callable[[Any], Any] | None = None  # in a worker process: what it does with a job


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def each(
    jobs: Sequence[Job], make_work: Callable[..., Callable[[Job], Result]], *arguments: Any, workers: int = 0
) -> Iterator[Result]:
    """The results of ``make_work(*arguments)(job)``, as they come: in no order.

    workers: how many processes, 0 for one a core; with 1 it is done in this process. make_work, its arguments, jobs and
    results travel between processes. Raises OpenVLAError where a process dies, and what the work raises.
    """
    workers = min(workers or usable_cores(), len(jobs))
    if workers <= 1:
        work = make_work(*arguments)
        yield from map(work, jobs)
        return
    # A forked process would inherit threads' locks and an OpenGL display that it can't use.
    context = get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start, (os.getpid(), make_work, arguments))
    try:
        for future in as_completed([pool.submit(_do, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise OpenVLAError(
            f"one of the {workers} processes died, perhaps for lack of memory: try with fewer (--workers)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(parent: int, make_work: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; what has begun is finished
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)
    os.environ["LP_NUM_THREADS"] = "0"  # Mesa's software renderer: the cores are taken by the other processes
    _work = make_work(*arguments)


def _do(job: Any) -> Any:
    assert _work is not None
    return _work(job)
