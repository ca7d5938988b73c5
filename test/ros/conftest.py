"""Tests of what nodes are made of, on real nodes: skipped only where there is no ROS at all."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS; `make test` installs it")

from ros_fixtures import domain, ros

__all__ = ["domain", "ros"]
