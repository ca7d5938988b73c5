"""Grippers: when their commands are sent, and what became of them. What is sent, each kind of gripper knows itself."""

from __future__ import annotations

from openvla_ros.drive.grippers.keeper import GripperKeeper, GripperMotion, KeeperConfig
from openvla_ros.drive.grippers.progress import GripperProgress, ProgressConfig

__all__ = ["GripperKeeper", "GripperMotion", "GripperProgress", "KeeperConfig", "ProgressConfig"]
