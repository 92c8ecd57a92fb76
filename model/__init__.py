"""Mathematics: texts as bytes, the network, heads on its features, and checkpoints on disk. No web and no queue."""
