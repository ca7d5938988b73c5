"""Runs one node as a process: clean exit on SIGINT and SIGTERM, one line for an error that a user can mend."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from openvla_ros.errors import ConfigError, OpenVLAError
from openvla_ros.ros import parameters, timers
from openvla_ros.ros.executor import LeanExecutor
from openvla_ros.ros.priority import threads
from openvla_ros.ros.realtime import Realtime

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h
_ENDS = (signal.SIGINT, signal.SIGTERM)
_LOOK = 0.1  # [s] after which a node without any work notices that it is to end
_GRACE = 0.5  # [s] that the callback in hand, or the node's constructor, then has to return


def _die_with_parent() -> None:
    """End with the process that started the graph (bringup/processes.py names it), however that one ends."""
    parent = os.environ.get("OPENVLA_ROS_PARENT_PID")
    if parent is not None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it had ended before we asked
            sys.exit(1)


class _Ending:
    """The first signal ends the node, between two callbacks. A second one must not cut the end short.

    An exception that a signal raises anywhere leaves things half done (a recording without its end), or reaches C++
    code that can't pass it on. Only a callback that does not return within _GRACE gets one: say, it waits for a model.

    `ros2 launch` passes on the Ctrl-C that the terminal has sent already. rclpy's own handlers shut the context down
    from a thread beside whatever the node is doing: once in some hundreds of times a node hung in its end, or never
    heard of it.
    """

    def __init__(self) -> None:
        self.asked = False
        self._begun = False
        signal.signal(signal.SIGALRM, self._on_alarm)
        for number in _ENDS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if not self.asked and not self._begun:
            self.asked = True
            signal.setitimer(signal.ITIMER_REAL, _GRACE)

    def _on_alarm(self, number: int, frame: object) -> None:
        if not self._begun:
            raise KeyboardInterrupt

    def begin(self) -> None:
        """From now on nothing is interrupted."""
        self._begun = True
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def over(self) -> None:
        """Python takes its handlers away at its own end. Not earlier: one that comes just now is an error to it."""
        for number in _ENDS:
            signal.signal(number, signal.SIG_IGN)


def run(make: Callable[[], Node], realtime: int = 0) -> int:
    """Spin ``make()`` until a signal ends it. Exit status 2 for a configuration that can't work.

    ``realtime``: the priority to ask the system for unless the node's parameters ``realtime.*`` say otherwise; 0: the
    node has no such parameters. Does not return while other threads run: the process ends in here.
    """
    _die_with_parent()
    ending = _Ending()
    try:
        status = _spin(make, ending, realtime)
    except Exception:
        traceback.print_exc()
        status = 1
    if threading.active_count() > 1:
        leave(status)
    ending.over()
    return status


def _spin(make: Callable[[], Node], ending: _Ending, realtime: int) -> int:
    node: Node | None = None
    priority: Realtime | None = None
    others = threads()
    try:
        try:
            _init()
            node = make()
            priority = Realtime(node, realtime, others) if realtime else None
            parameters.refuse_unknown(node)
        except OpenVLAError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return 2
        timers.every(node, _LOOK, lambda: None)  # a signal does not wake an executor that waits
        executor = LeanExecutor()
        executor.add_node(node)
        if priority is not None:
            timers.every(node, _LOOK, priority.tend)
            priority.start()
        while not ending.asked:
            executor.spin_once()
        ending.begin()  # in here, so that an interrupt that comes just now can't skip what follows
    except KeyboardInterrupt:
        pass
    finally:
        ending.begin()
        with contextlib.ExitStack() as last:  # in reverse: the node's own end comes first, whatever fails after it
            last.callback(rclpy.try_shutdown)
            if node is not None:
                last.callback(node.destroy_node)
                last.callback(getattr(node, "close", lambda: None))
    return 0


def leave(status: int) -> NoReturn:
    """End the process without Python's usual end, under threads that still run: a model that loads, an inference.

    Nothing stops a thread in native code, and Python's usual end does not wait for a daemon's: it takes the interpreter
    away and unwinds the thread when it comes back, through C++ code that must not be unwound ("terminate called",
    status -6). After `run` all that must be closed is closed: what Python would still do is no loss.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


def _init() -> None:
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # of rcl, which names the file and line of a parameter that it can't parse
        raise ConfigError(f"the ROS arguments or a parameter file can't be read: {error}") from None
