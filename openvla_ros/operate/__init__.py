"""A person's side of a running graph: operator, stage, judge, replayer."""
