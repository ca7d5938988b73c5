"""The simulated robot and camera: speaks and listens as the real drivers do, in real time.

One thread steps the physics, draws and publishes at fixed rates; the executor only receives.
"""

from __future__ import annotations

import array
import sys
import threading
import time

from pydantic import BaseModel, Field
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.nodes import _convert, _parameters, _qos, _spin
from openvla_ros.nodes._diagnostics import OK, WARN, Diagnostics
from openvla_ros.robots.description import load_robot
from openvla_ros.sim.camera import Camera
from openvla_ros.sim.trajectory_controller import TrajectoryController, TrajectoryRejectedError
from openvla_ros.sim.world import World


class SimParameters(BaseModel):
    """Parameters of the simulation."""

    robot: str = Field("wx250s", description="robot description: a name in config/robots, or a file")
    scene: str = Field("blocks", description="scene in resource/scenes")
    seed: int = Field(0, ge=0, description="which random placement of the objects")
    joint_states_hz: float = Field(100.0, gt=0.0, le=250.0, description="rate of joint_states [Hz]")
    camera_hz: float = Field(30.0, gt=0.0, le=60.0, description="rate of image [Hz]")
    camera_frame: str = Field("camera", description="frame_id of images")
