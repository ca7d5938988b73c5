"""A camera's driver as a process of its own: the simulated camera's images, with a sensor's noise, until stdin ends."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from fault_bench import Camera

from openvla_ros.operate.operator import Operator

if __name__ == "__main__":
    with Operator("camera") as operator:
        Camera(SimpleNamespace(operator=operator))
        sys.stdin.read()  # also when whoever started this is killed
