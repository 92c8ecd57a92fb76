"""A training run: lanes, the loop, snapshots, validation and what it reports."""
