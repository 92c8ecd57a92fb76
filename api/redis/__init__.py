"""The gateway's side of Redis, one file for each part: `parts.py` opens them together."""
