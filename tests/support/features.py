"""Labelled features for the tests of heads."""

import numpy as np

from model.heads.checks import Floats, Labels


def two_classes(rows: int, units: int, unit: int, seed: int, gain: float = 1.0) -> tuple[Floats, Labels]:
    """Noise of very different scales per unit; `unit` moves by two deviations with the label, upwards if gain > 0."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, rows)
    features = draw.normal(size=(rows, units))
    features[:, unit] += gain * (2 * labels - 1)
    return features * 10.0 ** draw.uniform(-2, 1, units) + draw.normal(size=units), labels
