"""Run OpenVLA on a real arm with ROS 2: policy, safety filter, control modes, simulation."""

__version__ = "0.1.0"
