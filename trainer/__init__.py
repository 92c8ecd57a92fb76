"""Corpus, training, evaluation and publishing: the way of a model from raw text to the checkpoint volume."""
