"""A process signal that stops the arm: SIGUSR1, for a script, a GPIO daemon or a shell where ROS does not answer."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

STOP_SIGNAL = signal.SIGUSR1


def watch(on_stop: Callable[[], None]) -> None:
    """Call ``on_stop`` at each signal, in a thread of its own: whatever keeps the executor busy does not delay it.

    To be called in the main thread. Until then the signal ends the process, which makes the driver hold the arm too.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def wait() -> None:
        while numbers := os.read(reader, 64):
            if STOP_SIGNAL in numbers:
                on_stop()

    threading.Thread(target=wait, name="stop signal", daemon=True).start()
    # Python's own handlers run in the main thread, when it next has time. What C writes here is read at once. Blocking
    # the signal for sigwait would not do: numpy has made threads by now, which would take it, and end the process.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(STOP_SIGNAL, lambda *_: None)
