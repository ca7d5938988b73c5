"""`ros2 launch openvla_ros wx250s.launch.py image:=/camera/color/image_raw`: OpenVLA on a real WidowX 250 S.

Start the arm's own driver (interbotix_xs_ros_control) first: docs/wx250s.md. The policy waits to be configured and
activated.
"""

from openvla_ros.bringup.graph import wx250s
from openvla_ros.bringup.ros_launch import describe


def generate_launch_description():
    return describe(wx250s())
