"""Texts: prepared as the model reads them, packed files, and labelled sets."""
