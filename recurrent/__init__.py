"""Recurrent classifiers trained from scratch on labelled texts: tokens, an embedding, GRU or LSTM, a dense layer.

What they can do: docs/recurrent.md. When they are worth it: evaluation/showdown.py.
"""
