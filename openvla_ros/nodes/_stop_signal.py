"""A process signal that stops the arm: SIGUSR1, for a script, a GPIO daemon or a shell where ROS does not answer."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

STOP_SIGNAL = signal.SIGUSR1


def block() -> None:
    """Keep the signal from every thread of this process. To be called before the first thread is made: DDS makes many.

    Until ``watch`` takes it, it waits; before this, it ends the process, which makes the driver hold the arm too.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {STOP_SIGNAL})


def watch(on_stop: Callable[[], None]) -> None:
    """Call ``on_stop`` at each signal, in a thread of its own: whatever keeps the executor busy does not delay it."""

    def wait() -> None:
        while True:
            signal.sigwait({STOP_SIGNAL})
            on_stop()

    threading.Thread(target=wait, name="stop signal", daemon=True).start()
