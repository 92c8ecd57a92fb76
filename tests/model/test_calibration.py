"""Calibration finds the probabilities that drew the labels, changes nothing else, and refuses what it cannot fit."""

import numpy as np
import pytest

from model.heads.calibration import calibrated, calibration_error, expected_calibration_error
from model.heads.checks import Floats, HeadError, Labels
from model.heads.classifier import Calibrated, Head, accuracy, head_probabilities

BINARY = Head(["no", "yes"], {0: [2.0], 2: [-1.0]}, [0.3], metrics={"valid_accuracy": 0.5})
THREE = Head(["a", "b", "c"], {0: [1.0, 0.0, -1.0], 1: [0.5, -1.0, 0.5]}, [0.1, 0.0, -0.1])


def drawn(head: Head, rows: int, seed: int, scale: float, shift: list[float]) -> tuple[Floats, Labels]:
    """Features, and labels drawn from the head's log-odds times `scale` plus `shift`, of every label."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(rows, 3))
    true = scale * np.log(head_probabilities(head, features)) + shift
    true = np.exp(true - true.max(axis=1, keepdims=True))
    true /= true.sum(axis=1, keepdims=True)
    return features, (true.cumsum(axis=1) < draw.random((rows, 1))).sum(axis=1)


@pytest.mark.parametrize(
    ("head", "method", "scale", "shift"),
    [
        (BINARY, "platt", 0.25, [0.0, 0.7]),
        (BINARY, "platt", 3.0, [0.0, -0.2]),
        (THREE, "temperature+bias", 0.4, [0.0, 0.5, -0.5]),
        (THREE, "temperature+bias", 2.0, [0.0, 0.0, 0.0]),
    ],
)
def test_the_probabilities_that_drew_the_labels_are_found(
    head: Head, method: str, scale: float, shift: list[float]
) -> None:
    features, labels = drawn(head, 40_000, 1, scale, shift)
    found = calibrated(head, features, labels, np.ones(len(labels)), "a test")
    ratio = found.weights[0][0] / head.weights[0][0]
    assert ratio == pytest.approx(scale, rel=0.05)
    expected = scale * np.array(head.bias) + (shift[1:] if len(shift) == 2 else shift)
    assert np.diff([0.0, *found.bias]) == pytest.approx(np.diff([0.0, *expected]), abs=0.05)
    fresh, fresh_labels = drawn(head, 40_000, 2, scale, shift)
    assert calibration_error(found, fresh, fresh_labels) < 0.01
    assert calibration_error(head, fresh, fresh_labels) > 0.02
    assert found.calibration == Calibrated(method, 40_000, "a test")  # type: ignore[arg-type]
    assert (found.labels, found.metrics, found.pooling) == (head.labels, head.metrics, head.pooling)


def test_rows_count_by_their_weights() -> None:
    features, labels = drawn(BINARY, 2000, 3, 1.0, [0.0, 0.0])
    twice = np.where(labels == 1, 2.0, 1.0)
    by_weight = calibrated(BINARY, features, labels, twice, "")
    both = np.concatenate([features, features[labels == 1]]), np.concatenate([labels, labels[labels == 1]])
    by_copies = calibrated(BINARY, *both, np.ones(len(both[1])), "")
    assert by_weight.bias == pytest.approx(by_copies.bias, abs=5e-3)
    assert by_weight.weights[0] == pytest.approx(by_copies.weights[0], abs=5e-3)
    nothing = np.where(np.arange(2000) < 1000, 1.0, 0.0)
    first = calibrated(BINARY, features[:1000], labels[:1000], np.ones(1000), "")
    assert calibrated(BINARY, features, labels, nothing, "").bias == pytest.approx(first.bias, abs=5e-3)


def test_texts_that_a_head_separates_leave_it_finite() -> None:
    features = np.array([[-1.0, 0, 0], [-2.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    found = calibrated(BINARY, features, [0, 0, 1, 1], np.ones(4), "")
    probabilities = head_probabilities(found, features)[:, 1]
    assert accuracy(found, features, [0, 0, 1, 1]) == 1.0
    assert ((probabilities > 0.05) & (probabilities < 0.95)).all()  # of two texts each nobody can be sure


def test_the_expected_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.45, 0.55]])
    labels = np.array([0, 1, 1, 1])
    # Bins of 0.9 (one of two right), 0.8 (right) and 0.55 (right).
    assert expected_calibration_error(probabilities, labels) == pytest.approx((0.8 + 0.2 + 0.45) / 4)
    assert expected_calibration_error(np.array([[0.0, 1.0]]), np.array([1])) == 0.0


@pytest.mark.parametrize(
    ("labels", "weights", "message"),
    [
        ([0, 0, 0, 0], [1, 1, 1, 1], "'yes' has no row to calibrate with"),
        ([0, 0, 1, 1], [1, 1, 0, 0], "'yes' has no row to calibrate with"),
        ([1, 1, 0, 0], [1, 1, 1, 1], "right no more often than chance on 4 rows"),
        ([0, 0, 1, 1], [1, 1, 1], r"shape \(3,\) for 4 rows"),
        ([0, 0, 1, 1], [1, 1, 1, -1], "some are negative"),
    ],
)
def test_what_cannot_be_fitted(labels: list[int], weights: list[float], message: str) -> None:
    features = np.array([[-1.0, 0, 0], [-2.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    with pytest.raises(HeadError, match=message):
        calibrated(BINARY, features, labels, weights, "")
