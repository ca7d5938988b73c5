"""Fine-tuning OpenVLA on recorded episodes. Knows no ROS."""
