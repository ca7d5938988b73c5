"""Which nodes make a graph, and how to start and stop them without `ros2 launch`."""
