"""The demo: an operator that drives a running graph, what it saw, and the picture that it makes of it."""
