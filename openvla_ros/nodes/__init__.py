"""ROS 2 nodes, one file each: parameters, topics and timers around the ROS-free parts."""
