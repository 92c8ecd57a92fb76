"""Labelled features for the tests of heads."""

import numpy as np
import pytest

from model.heads.checks import Floats, Labels
from model.heads.classifier import Head, head_probabilities
from tests.support.checkpoints import UNITS

FEATURES = [np.zeros((1, UNITS)), np.full((2, UNITS), 1e12), np.linspace(-1e12, 1e12, 3 * UNITS).reshape(3, UNITS)]


def two_classes(rows: int, units: int, unit: int, seed: int, gain: float = 1.0) -> tuple[Floats, Labels]:
    """Noise of very different scales per unit; `unit` moves by two deviations with the label, upwards if gain > 0."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, rows)
    features = draw.normal(size=(rows, units))
    features[:, unit] += gain * (2 * labels - 1)
    return features * 10.0 ** draw.uniform(-2, 1, units) + draw.normal(size=units), labels


def assert_probabilities(head: Head, features: np.ndarray) -> None:
    found = head_probabilities(head, features)
    assert found.shape == (len(features), len(head.labels))
    assert ((found >= 0) & (found <= 1)).all()
    assert found.sum(axis=1) == pytest.approx(1.0)
