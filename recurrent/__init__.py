"""Recurrent classifiers trained from scratch on labelled texts: tokens, an embedding, GRU or LSTM, a dense layer.

What they can do and how they compare with the language model's features: docs/recurrent.md.
"""
