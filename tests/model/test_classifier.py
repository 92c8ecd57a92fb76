"""Heads: what a fit finds, and what a head says of raw features."""

import numpy as np
import pytest

from model.heads.checks import Floats, HeadError, Labels
from model.heads.classifier import C_GRID, TOP_UNITS, Head, accuracy, fit_l1, head_probabilities
from tests.support.features import two_classes


def split(features: Floats, labels: Labels) -> tuple[Floats, Labels, Floats, Labels]:
    half = len(labels) // 2
    return features[:half], labels[:half], features[half:], labels[half:]


@pytest.mark.parametrize("standardize", [True, False])
def test_fit_finds_the_signal_and_applies_to_raw_features(standardize: bool) -> None:
    features, labels = two_classes(600, 20, unit=7, seed=1, gain=2.0)
    if not standardize:
        features[:, 7] *= 1 / features[:, 7].std()
    x, y, valid, valid_y = split(features, labels)
    head = fit_l1(x, y, valid, valid_y, ["negative", "positive"], standardize=standardize)
    assert head.c in C_GRID
    assert head.labels == ["negative", "positive"]
    assert head.metrics["nonzero_units"] == len(head.weights) <= 20
    assert max(head.weights, key=lambda unit: abs(head.weights[unit][0]) * features[:, unit].std()) == 7
    assert head.metrics["valid_accuracy"] > 0.93
    # The metric was computed from dense weights in the fit; the sparse head must say the same of raw features.
    probabilities = head_probabilities(head, valid.astype(np.float32))
    assert ((probabilities[:, 1] > 0.5) == valid_y).mean() == pytest.approx(head.metrics["valid_accuracy"])
    assert accuracy(head, valid, valid_y) == head.metrics["valid_accuracy"]
    assert accuracy(head, x, y) == head.metrics["train_accuracy"]


def test_top_units_weigh_most_by_weight_times_deviation() -> None:
    rows = {3: [0.5, -1.0, 0.0], 5: [0.0, 0.0, 2.0], 8: [0.25, 0.0, 0.0], 9: [0.0, 0.0, 0.0]}
    head = Head(["a", "b", "c"], rows, [0.0, 0.0, 0.0])
    assert head.top_units(None) == [5, 3, 8]
    deviations = np.ones(10)
    deviations[[3, 8]] = [3, 0]
    assert head.top_units(deviations) == [3, 5]
    assert Head(["a", "b"], {}, [0.0]).top_units(deviations) == []
    assert Head(["a", "b"], {unit: [float(unit)] for unit in range(40)}, [0.0]).top_units(None) == [*range(39, 29, -1)]
    assert TOP_UNITS == 10


def test_standardizing_makes_scale_and_shift_of_a_unit_irrelevant() -> None:
    features, labels = two_classes(400, 12, unit=3, seed=2)
    draw = np.random.default_rng(0)
    moved = features * 10.0 ** draw.uniform(-3, 3, 12) + draw.normal(size=12)
    names = ["no", "yes"]
    one, other = (fit_l1(*split(x, labels), names) for x in (features, moved))
    assert one.c == other.c
    assert head_probabilities(one, features) == pytest.approx(head_probabilities(other, moved), abs=1e-4)


def test_of_equally_good_strengths_the_sparsest_is_taken() -> None:
    features, labels = two_classes(400, 10, unit=0, seed=3, gain=50.0)
    head = fit_l1(*split(features, labels), ["no", "yes"])
    assert head.metrics["valid_accuracy"] == 1.0
    assert list(head.weights) == [0]
    assert head.c == 2.0**-6  # the first to leave a weight: 200 rows pull with at most 200 / 2


def test_a_fit_is_the_same_every_time() -> None:
    features, labels = two_classes(200, 30, unit=5, seed=4)
    assert fit_l1(*split(features, labels), ["no", "yes"]) == fit_l1(*split(features, labels), ["no", "yes"])


def test_more_than_two_labels() -> None:
    draw = np.random.default_rng(5)
    labels = draw.integers(0, 3, 600)
    features = draw.normal(size=(600, 15))
    features[np.arange(600), labels + 4] += 4.0  # units 4, 5, 6 say which
    x, y, valid, valid_y = split(features, labels)
    head = fit_l1(x, y, valid, valid_y, ["bad", "fair", "good"])
    assert {4, 5, 6} <= set(head.weights)
    assert all(len(row) == 3 for row in [head.bias, *head.weights.values()])
    assert head.metrics["valid_accuracy"] > 0.95
    probabilities = head_probabilities(head, valid)
    assert probabilities.shape == (300, 3)
    assert probabilities.sum(axis=1) == pytest.approx(1.0)
    assert (probabilities.argmax(axis=1) == valid_y).mean() == pytest.approx(head.metrics["valid_accuracy"])


def test_probabilities_by_hand() -> None:
    binary = Head(labels=["n", "p"], weights={2: [3.0]}, bias=[-1.0])
    features = np.array([[9.0, 9.0, 0.5], [0.0, 0.0, -4.0]])
    p = 1 / (1 + np.exp(-(3.0 * features[:, 2] - 1.0)))
    assert head_probabilities(binary, features) == pytest.approx(np.stack([1 - p, p], axis=1))
    many = Head(labels=["a", "b", "c"], weights={0: [1.0, 0.0, -1.0], 2: [0.0, 2.0, 0.0]}, bias=[0.0, 0.5, 1.0])
    z = np.exp(np.array([[9.0, 1.5, -8.0], [0.0, -7.5, 1.0]]))
    assert head_probabilities(many, features) == pytest.approx(z / z.sum(axis=1, keepdims=True))


def test_probabilities_stay_finite_far_out_and_without_weights() -> None:
    head = Head(labels=["n", "p"], weights={0: [1e4]}, bias=[0.0])
    assert head_probabilities(head, [[1e6], [-1e6]]).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    empty = Head(labels=["n", "p"], weights={}, bias=[0.0])
    assert head_probabilities(empty, np.ones((2, 3))).tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_features_that_lack_a_unit_are_refused() -> None:
    head = Head(labels=["n", "p"], weights={5: [1.0]}, bias=[0.0])
    with pytest.raises(HeadError, match=r"shape \(1, 3\), .* unit 5"):
        head_probabilities(head, np.ones((1, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["same", "same"]}, "two different names"),
        ({"labels": ["a", "b", "c"]}, "'c' has no training row"),
        ({"train_labels": np.array([0, 1, 2, 0])}, "run from 0 to 2, outside 0 to 1"),
        ({"train_labels": np.array([0, 1, 0])}, r"shape \(4, 2\) and labels \(3,\)"),
        ({"train_labels": np.array([0.0, 1.0, 0.0, 1.0])}, "float64: need"),
        ({"valid_features": np.ones((4, 3))}, "have 2 units, validation features 3"),
        ({"train_features": np.full((4, 2), np.nan)}, "not finite"),
    ],
)
def test_unfit_arguments_are_named(change: dict[str, object], message: str) -> None:
    arguments = {
        "train_features": np.eye(4, 2),
        "train_labels": np.array([0, 1, 0, 1]),
        "valid_features": np.eye(4, 2),
        "valid_labels": np.array([0, 1, 0, 1]),
        "labels": ["a", "b"],
    }
    with pytest.raises(HeadError, match=message):
        fit_l1(**(arguments | change))  # type: ignore[arg-type]
