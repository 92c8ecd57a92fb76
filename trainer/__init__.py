"""The way of a model from raw text to the checkpoint volume: corpus, run, fine-tuning, publishing."""
