"""Runs one node as a process: clean exit on SIGINT and SIGTERM, one line for an error that a user can mend."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from openvla_ros.errors import ConfigError, OpenVLAError
from openvla_ros.ros import parameters, timers

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h
_ENDS = (signal.SIGINT, signal.SIGTERM)
_LOOK = 0.1  # [s] after which a node without any work notices that it is to end


def _die_with_parent() -> None:
    """End with the process that started the graph (bringup/processes.py names it), however that one ends."""
    parent = os.environ.get("OPENVLA_ROS_PARENT_PID")
    if parent is not None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it had ended before we asked
            sys.exit(1)


class _Ending:
    """The first signal ends the node, where it next runs Python. A second one must not cut the end short.

    `ros2 launch` passes on the Ctrl-C that the terminal has sent already. rclpy's own handlers shut the context down
    from a thread beside whatever the node is doing: once in some hundreds of times a node hung in its end, or never
    heard of it.
    """

    def __init__(self) -> None:
        self._asked = False
        for number in _ENDS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.ignore_signals()
        self._asked = True
        raise KeyboardInterrupt

    def ignore_signals(self) -> None:
        for number in _ENDS:
            signal.signal(number, signal.SIG_IGN)

    def look(self) -> None:
        if self._asked:  # the exception was lost: Python drops those that reach it in a destructor
            raise KeyboardInterrupt


def run(make: Callable[[], Node]) -> int:
    """Spin ``make()`` until a signal ends it. Exit status 2 for a configuration that can't work."""
    _die_with_parent()
    ending = _Ending()
    node: Node | None = None
    try:
        try:
            _init()
            node = make()
            parameters.refuse_unknown(node)
        except OpenVLAError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return 2
        timers.every(node, _LOOK, ending.look)  # a signal does not wake an executor that waits
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except KeyboardInterrupt:
        pass
    finally:
        ending.ignore_signals()
        if node is not None:
            getattr(node, "close", lambda: None)()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _init() -> None:
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # of rcl, which names the file and line of a parameter that it can't parse
        raise ConfigError(f"the ROS arguments or a parameter file can't be read: {error}") from None
