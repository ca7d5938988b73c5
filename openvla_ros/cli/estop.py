"""Makes the keyboard an e-stop: any key stops the arm, r re-arms, g goes on, q quits. Shows, live, what holds the arm.

Ctrl-C, and closing the terminal, stop too. Not a substitute for the hardware e-stop, which needs neither this machine
nor its network.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from openvla_ros.cli._graph import add_graph_arguments, open_operator
from openvla_ros.errors import ConfigError, OpenVLAError

if TYPE_CHECKING:
    import openvla_ros.msg as ours
    from openvla_ros.operate.operator import Operator

HELP = "stop the arm with any key"
REFRESH = 0.1  # [s] between two looks, and two heartbeats
SILENCE = 0.5  # [s] after which a filter that publishes at 20 Hz counts as gone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_graph_arguments(parser)
    parser.add_argument(
        "--heartbeat",
        action="store_true",
        help="send the operator's heartbeat while this runs: with deadman.timeout_s set, the arm stops when it ends",
    )


def run(args: argparse.Namespace) -> int:
    if not sys.stdin.isatty():
        raise ConfigError("estop needs a keyboard, and its input is no terminal; in a script use 'openvla-ros stop'")
    with keyboard(), open_operator(args) as operator:
        Station(operator, args.heartbeat).run()
    return 0


@contextlib.contextmanager
def keyboard() -> Iterator[None]:
    """Single keys, unechoed, for as long as this lasts; the terminal is as before after it, however it ends."""
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    # With the terminal gone, reading from it says so: a hang-up must not end us before we have stopped the arm.
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    terminate = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, terminate)
        signal.signal(signal.SIGHUP, hang_up)


class Station:
    """A stop button, a reset button and a display. ``heartbeat``: whether to send the operator's."""

    def __init__(self, operator: Operator, heartbeat: bool) -> None:
        from openvla_ros.msg import SafetyStatus
        from openvla_ros.ros import qos

        self._operator = operator
        self._heartbeat = heartbeat
        self._status: ours.SafetyStatus | None = None
        self._heard = self._pressed_at = time.monotonic()
        self._pressed = False  # by us
        self._shown = ""  # the last line of the history
        self._keys = 0  # that did something
        self._answer = ""  # to the last request, not shown yet
        operator.watch(SafetyStatus, "safety_status", qos.STATUS, self._on_status)

    def _on_status(self, message: ours.SafetyStatus) -> None:
        self._status, self._heard = message, time.monotonic()

    def run(self) -> None:
        """Until q, Ctrl-C or the end of the terminal."""
        heartbeat = "    (heartbeat on)" if self._heartbeat else ""
        self._print(f"any key: STOP    r: re-arm    g: go on after that    q: quit{heartbeat}")
        try:
            while self._obey(self._key()):
                if self._heartbeat:
                    self._operator.heartbeat()
                self._show()
        except KeyboardInterrupt:
            self.stop()
        self._leave()

    def _key(self) -> bytes | None:
        """What was typed, None for nothing within REFRESH, empty when the terminal is gone."""
        if not select.select([sys.stdin], [], [], REFRESH)[0]:
            return None
        try:
            return os.read(sys.stdin.fileno(), 1024)
        except OSError:
            return b""

    def _obey(self, typed: bytes | None) -> bool:
        """False: it is time to go. Several keys at once, or a function key, are a stop, whatever is among them."""
        if typed == b"q":
            return False
        if typed == b"r":
            self.reset()
        elif typed == b"g":
            self.resume()
        elif typed is not None:
            self.stop()
        return typed != b""

    def stop(self) -> None:
        """Heard by the filter, which latches, and by the driver, which holds also without the filter."""
        self._operator.e_stop(True)
        self._pressed, self._pressed_at = True, time.monotonic()
        self._keys += 1

    def reset(self) -> None:
        """Release our own stop, then ask the filter. In a thread: meanwhile a key must still stop."""
        if self._pressed:
            self._operator.e_stop(False)
            self._pressed = False
        self._ask("safety_filter/reset")

    def resume(self) -> None:
        """The second, deliberate act: where our own stop is pressed it changes nothing."""
        self._ask("safety_filter/resume")

    def _ask(self, service: str) -> None:
        self._keys += 1
        threading.Thread(target=self._trigger, args=(service, self._keys), daemon=True).start()

    def _trigger(self, service: str, keys: int) -> None:
        try:
            # The release and the request travel on different paths: the filter must have the release first.
            with contextlib.suppress(OpenVLAError):
                self._operator.wait_for("the release", lambda: self._status and not self._status.stop_pressed, 0.5)
            answer = self._operator.trigger(service, 2.0)[1]
        except OpenVLAError as error:
            answer = str(error)
        if keys == self._keys:  # else it was true before the last key
            self._answer = answer

    def _leave(self) -> None:
        """Once latched, the filter needs no pressed button: with us gone, nobody could release it."""
        if self._pressed:
            with contextlib.suppress(OpenVLAError):
                self._operator.wait_for("the stop", self._is_latched, 1.0)
                self._pressed = False
                self._operator.e_stop(False, delivered_within=1.0)
        self._show()
        if self._status is not None and self._status.state == self._status.STOPPED:
            self._print("the arm stays stopped; 'openvla-ros reset' re-arms, 'openvla-ros resume' goes on")

    def _is_latched(self) -> bool:
        status = self._status
        return status is not None and status.stop_pressed and status.state == status.STOPPED

    def _show(self) -> None:
        from openvla_ros.control.safety.decision import State

        status, silence = self._status, time.monotonic() - self._heard
        if status is None or silence > SILENCE:
            line = "NO SAFETY FILTER is heard: without it the driver holds the arm"
        else:
            reasons = "; ".join(f"{r.rule}: {r.detail}" for r in status.reports)
            pressed = " (pressed)" if status.stop_pressed else ""
            line = f"{State(status.state).name}{pressed}" + (f"  {reasons}" if reasons else "")
            # While actions come, each has reasons of its own: the history is of states.
            if line.partition("  ")[0] != self._shown.partition("  ")[0]:
                self._print(f"{time.strftime('%H:%M:%S')}  {line}")
                self._shown = line
        if self._pressed and not self._is_latched() and time.monotonic() - self._pressed_at > SILENCE:
            line = "STOP NOT CONFIRMED by the filter: use the hardware e-stop"
        if self._answer:
            self._print(f"{time.strftime('%H:%M:%S')}  {self._answer}")
            self._answer = ""
        self._write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")

    def _print(self, line: str) -> None:
        self._write(f"\r\x1b[K{line}\n")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone
            sys.stdout.write(text)
            sys.stdout.flush()
