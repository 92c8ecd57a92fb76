"""Standardized features, and the one idea of a constant unit that fits, units and calibrations share."""

import numpy as np
import pytest
from numpy.typing import NDArray

from model.heads import l1
from model.heads.checks import HeadError
from model.heads.standardization import Standardization, is_constant, mean_and_deviation
from model.heads.unit import calibrate, find_unit
from tests.support.features import two_classes

# A unit that varies by this much around 3 is constant, or is not.
ROUNDING, VARYING = 1e-6, 1e-5


def with_unit(deviation: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features whose unit 2 tells the label, exactly, by two deviations around 3, and unit 5 less well."""
    features, labels = two_classes(400, 8, unit=5, seed=1)
    features[:, 2] = 3.0 + deviation * (2 * labels - 1)
    return features, labels


@pytest.mark.parametrize("mean", [0.0, 1.0, -3.0, 1e6])
def test_a_unit_is_constant_where_its_deviation_is_rounding(mean: float) -> None:
    least = max(1e-6 * abs(mean), 1e-20)
    found = is_constant(np.full(3, mean), np.array([0.0, least, 1.01 * least]))
    assert found.tolist() == [True, True, False]


def test_features_become_standard() -> None:
    features, _ = two_classes(500, 6, unit=0, seed=3)
    mean, deviation = mean_and_deviation(features)
    standard = Standardization.of(features)
    assert (standard.mean == mean).all()
    assert (standard.deviation == deviation).all()
    scaled = standard.scaled(features)
    assert scaled.mean(axis=0) == pytest.approx(0, abs=1e-9)
    assert scaled.std(axis=0) == pytest.approx(1)


def test_in_place_is_the_same() -> None:
    features, _ = with_unit(0.0)
    lying = features.astype(np.float32)
    standard = Standardization.of(lying)
    expected = standard.scaled(lying)
    found = Standardization.in_place(lying)
    np.testing.assert_allclose(lying, expected, atol=1e-5)
    np.testing.assert_allclose(found.mean, standard.mean)
    np.testing.assert_allclose(found.deviation, standard.deviation, rtol=1e-6)
    assert np.isinf(found.deviation).nonzero()[0].tolist() == [2]


def test_weights_are_folded_back_to_raw_features() -> None:
    features, _ = two_classes(50, 6, unit=0, seed=3)
    weights, bias = np.arange(12.0).reshape(2, 6), np.array([0.5, -1.0])
    standard = Standardization.of(features)
    raw, raw_bias = standard.folded(weights, bias)
    np.testing.assert_allclose(features @ raw.T + raw_bias, standard.scaled(features) @ weights.T + bias)


def test_a_constant_unit_gets_no_weight_anywhere() -> None:
    for deviation, constant in ((0.5 * 3 * ROUNDING, True), (VARYING, False)):
        features, labels = with_unit(deviation)
        assert (Standardization.of(features).scaled(features)[:, 2] == 0).all() == constant
        [(weights, _)] = l1.fit(features, labels, 2, [(1.0, True)])
        assert (weights[0, 2] == 0) == constant
        assert find_unit(features, labels) == (5 if constant else 2)


def test_a_constant_unit_cannot_be_calibrated() -> None:
    features, labels = with_unit(0.5 * 3 * ROUNDING)
    with pytest.raises(HeadError, match="unit 2 stays at 3 on 400 rows"):
        calibrate(features[:, 2], labels, unit=2)
    features, labels = with_unit(VARYING)
    assert calibrate(features[:, 2], labels, unit=2).center == pytest.approx(3.0, abs=1e-9)
