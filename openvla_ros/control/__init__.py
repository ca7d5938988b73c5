"""The safety filter and the two control loops: state machines without ROS, with the clock passed in."""
