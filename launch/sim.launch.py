"""`ros2 launch openvla_ros sim.launch.py`: policy, safety filter, driver and the simulated WidowX 250 S.

`ros2 launch openvla_ros sim.launch.py --show-args` lists the arguments. The graph itself stands in
openvla_ros/bringup/graph.py, which `make demo` and `openvla-ros up sim` start too.
"""

from openvla_ros.bringup.graph import sim
from openvla_ros.bringup.ros_launch import describe


def generate_launch_description():
    return describe(sim())
