"""Many episodes: run, recorded, scored, reported."""
