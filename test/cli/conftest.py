"""Tests of the command line against running nodes: skipped only where there is no ROS at all."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="these verbs need ROS; `make test` installs it")
