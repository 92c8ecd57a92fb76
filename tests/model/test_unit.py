"""The sentiment unit: which one is found, its exact threshold against trying every one, and its calibration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.heads.checks import Floats, HeadError, Labels
from model.heads.unit import Calibration, calibrate, find_unit, fit_threshold
from tests.support.examples import examples
from tests.support.features import two_classes


@pytest.mark.parametrize("gain", [1.0, -1.0])
@pytest.mark.parametrize("rows", [40, 2000])
def test_find_unit(gain: float, rows: int) -> None:
    features, labels = two_classes(rows, 50, unit=31, seed=6, gain=gain)
    assert find_unit(features, labels) == 31


def test_find_unit_among_few_positives_and_units_that_never_change() -> None:
    features, labels = two_classes(1000, 20, unit=11, seed=7)
    keep = (labels == 0) | (np.arange(1000) % 10 == 0)
    features[:, 4] = 3.3
    assert find_unit(features[keep], labels[keep]) == 11


def test_find_unit_needs_both_labels_and_a_difference() -> None:
    with pytest.raises(HeadError, match="all 4 rows have label 1"):
        find_unit(np.random.default_rng(0).normal(size=(4, 2)), np.ones(4, dtype=int))
    with pytest.raises(HeadError, match="none of 3 units differs"):
        find_unit(np.ones((4, 3)), [0, 1, 0, 1])


def count_correct(values: Floats, labels: Labels, threshold: float, polarity: int) -> float:
    return float((((values > threshold) == (polarity > 0)) == (labels == 1)).mean())


@settings(max_examples=examples(300), deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-3, 3, width=32) | st.sampled_from([0.0, -0.0, 1.0]), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_threshold_is_as_good_as_the_best_of_all(rows: list[tuple[float, bool]]) -> None:
    values, labels = np.array([value for value, _ in rows]), np.array([label for _, label in rows]).astype(int)
    threshold, polarity, found = fit_threshold(values, labels)
    assert found == count_correct(values, labels, threshold, polarity)
    candidates = [values.min() - 1.0, *values]
    best = max(count_correct(values, labels, cut, sign) for cut in candidates for sign in (-1, 1))
    assert found == best


def test_threshold_stands_in_the_middle_of_the_widest_gap() -> None:
    assert fit_threshold([0.0, 1.0, 3.0, 4.0], [0, 0, 1, 1]) == (2.0, 1, 1.0)
    assert fit_threshold([0.0, 1.0, 3.0, 4.0], [1, 1, 0, 0]) == (2.0, -1, 1.0)
    # Cutting after 0 or after 10 is equally good; 0.5 would stand in the narrow gap.
    assert fit_threshold([0.0, 1.0, 10.0, 20.0], [0, 1, 0, 1])[0] == 15.0


@pytest.mark.parametrize("polarity", [1, -1])
def test_calibration(polarity: int) -> None:
    draw = np.random.default_rng(8)
    labels = np.repeat([0, 1], 2000)
    values = 0.7 + polarity * (2 * labels - 1) * draw.uniform(0.1, 2.1, 4000)
    values[:5] += 1e3 * polarity * -1  # outliers on their own side change nothing
    found = calibrate(values, labels, unit=42)
    assert (found.unit, found.polarity) == (42, polarity)
    assert found.center == pytest.approx(0.7, abs=0.1)
    assert found.scale == pytest.approx(2.0, abs=0.1)
    assert found.sentiment(0.7 + polarity * 5.0) == 1.0
    assert found.sentiment(found.value(-0.5)) == pytest.approx(-0.5)


def test_a_unit_that_never_changes_cannot_be_calibrated() -> None:
    with pytest.raises(HeadError, match="all 4 rows have label 0"):
        calibrate([1.0, 2.0, 3.0, 4.0], [0, 0, 0, 0], unit=1)
    with pytest.raises(HeadError, match="unit 1 stays at 1 on 4 rows"):
        calibrate([1.0, 1.0, 1.0, 1.0], [0, 1, 0, 1], unit=1)


def test_calibration_is_a_line_there_and_back() -> None:
    falling = Calibration(unit=0, polarity=-1, center=0.5, scale=2.0)
    assert falling.value(1.0) == -1.5
    assert falling.sentiment(-1.5) == 1.0
    assert falling.sentiment(0.5) == 0.0
    assert (falling.sentiment(99.0), falling.sentiment(-99.0)) == (-1.0, 1.0)
