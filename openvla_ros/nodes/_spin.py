"""Runs one node as a process: clean exit on SIGINT and SIGTERM, one line for an error that a user can mend."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from openvla_ros.errors import ConfigError, OpenVLAError
from openvla_ros.nodes import _parameters, _timer

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def _die_with_parent() -> None:
    """End with the process that started the graph (bringup/processes.py names it), however that one ends."""
    parent = os.environ.get("OPENVLA_ROS_PARENT_PID")
    if parent is not None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it had ended before we asked
            sys.exit(1)


def run(make: Callable[[], Node]) -> int:
    """Spin ``make()`` until the context is shut down. Exit status 2 for a configuration that can't work."""
    _die_with_parent()
    signal.signal(signal.SIGINT, _interrupt_once)
    node: Node | None = None
    try:
        try:
            try:
                _init()
                node = make()
                _parameters.refuse_unknown(node)
            except OpenVLAError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                return 2
            # Once in some dozens of times, a signal shuts the context down without waking the executor.
            _timer.every(node, 0.5, lambda: None)
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            executor.spin()
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        except RuntimeError:
            # A message that is taken while the signal handler shuts the context down fails in rclpy's bindings.
            if rclpy.ok():
                raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        pass  # the same Ctrl-C, which rclpy had told already
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node is not None:
            getattr(node, "close", lambda: None)()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _interrupt_once(number: int, frame: object) -> None:
    """Neither rclpy's and Python's word of one Ctrl-C, nor a second one, may cut the end short.

    `ros2 launch` passes on the Ctrl-C that the terminal has sent already.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _init() -> None:
    try:
        rclpy.init()
    except RuntimeError as error:  # of rcl, which names the file and line of a parameter that it can't parse
        raise ConfigError(f"the ROS arguments or a parameter file can't be read: {error}") from None
