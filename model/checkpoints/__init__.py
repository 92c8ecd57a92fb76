"""What lies on disk: checkpoints and their volume, manifests, stored heads, and how files are written and read."""
