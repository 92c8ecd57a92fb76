"""The mathematics: bytes, cells, checkpoints, heads, sampling. No web and no queue in here."""
