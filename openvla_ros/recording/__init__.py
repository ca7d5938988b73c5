"""Episodes: writing, reading, measuring and showing them. No ROS needed; docs/recording.md says what an episode is."""
