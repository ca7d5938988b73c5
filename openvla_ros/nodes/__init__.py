"""ROS 2 nodes, one file each: parameters, topics and timers around the ROS-free parts."""

import os
import signal
import sys
from pathlib import Path


def _is_node_process() -> bool:
    """Whether this process was started as a node of ours: `python -m openvla_ros.nodes.NAME`, lib/openvla_ros/NAME."""
    if sys.argv[:1] == ["-m"]:  # which it is while Python looks for that module
        return any(argument.startswith(f"{__name__}.") for argument in sys.orig_argv)
    return bool(sys.argv) and Path(sys.argv[0]).parent.name == "openvla_ros" and sys.argv[0].endswith("_node")


# Imports take seconds. A node that is ended meanwhile has nothing to close, and Python would answer with a traceback.
# spin.run sets handlers of its own.
if _is_node_process():
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, lambda *_: os._exit(0))
