"""Classifiers on the features: linear heads, the sentiment unit, how they are fitted and estimated."""
