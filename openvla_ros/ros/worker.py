"""One worker thread for one slow job at a time, so that inference never blocks the executor."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from rclpy.node import Node

T = TypeVar("T")


class Worker:
    """Runs jobs one after another in a thread; each outcome comes back on the executor, through a guard condition."""

    def __init__(self, node: Node, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Any, Callable[[Any], None]]] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._guard = node.create_guard_condition(self._deliver)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Any], deliver: Callable[[Any], None]) -> None:
        """Run ``job`` in the thread, then ``deliver(result or exception)`` on the executor."""
        self._jobs.put((job, deliver))

    def idle(self, timeout: float) -> bool:
        """Whether the thread has done all its jobs within ``timeout`` [s]."""
        idle = threading.Event()
        self._jobs.put((idle.set, lambda _: None))
        return idle.wait(timeout)

    def run(self, job: Callable[[], T]) -> T:
        """Run ``job`` in the thread and wait for it. For what must happen in that thread, such as a model's warm-up."""
        done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def reporting() -> None:
            try:
                done.put((job(), None))
            except BaseException as error:
                done.put((None, error))

        self._jobs.put((reporting, lambda _: None))
        result, error = done.get()
        if error is not None:
            raise error
        return cast(T, result)

    def close(self) -> None:
        """Ask the thread to end after the job in hand. A job that hangs does not keep the process alive."""
        self._closed.set()
        self._jobs.put(None)
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, deliver = item
            try:
                result = job()
            except Exception as error:
                result = error
            if self._closed.is_set():  # the guard condition is gone with the node, and nobody waits
                return
            self._done.put((result, deliver))
            self._guard.trigger()

    def _deliver(self) -> None:
        # One trigger may stand for several results.
        while not self._done.empty():
            result, deliver = self._done.get()
            deliver(result)
