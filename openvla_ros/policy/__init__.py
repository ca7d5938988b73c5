"""Observation to action: model families, their checkpoints, and what their actions mean. No ROS."""
