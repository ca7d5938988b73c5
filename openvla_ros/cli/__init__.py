"""The `openvla-ros` command, one verb a file."""
