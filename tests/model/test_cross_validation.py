"""Fits of one labelled set: what they find, that the estimate is honest, and that little is enough."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from model.heads import l1
from model.heads.checks import HeadError
from model.heads.classifier import C_GRID, TOP_UNITS, accuracy, head_probabilities
from model.heads.cross_validation import Fitted, accuracy_interval, fit_cv, fit_unit_cv
from model.heads.unit import find_unit

Features = NDArray[np.float32]
Classes = NDArray[np.int64]


def planted(rows: int, units: int, classes: int, gain: float, seed: int = 0) -> tuple[Features, Classes]:
    """Noise of very different scales and places; unit 3 + k is higher by `gain` deviations in class k."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.arange(rows) % classes)
    features = draw.normal(size=(rows, units))
    features[np.arange(rows), 3 + labels] += gain
    return (features * 10.0 ** draw.uniform(-2, 1, units) + draw.normal(size=units)).astype(np.float32), labels


def fit(features: Features, labels: Classes, unit_only: bool = False) -> Fitted:
    """On a copy, for fits scale in place."""
    if unit_only:
        return fit_unit_cv(features.copy(), labels)
    return fit_cv(features.copy(), labels, int(labels.max()) + 1)


@pytest.mark.parametrize("c", C_GRID[::2])
def test_the_solver_ends_where_scikit_learns_does(c: float) -> None:
    features, labels = planted(300, 40, 2, gain=1.0)
    features[:, 10] = features[:, 3] + 0.1 * features[:, 11]  # units that say nearly the same
    scaled = ((features - features.mean(axis=0)) / features.std(axis=0)).astype(np.float32)
    signs = np.where(labels == 1, 1, -1).astype(np.float32)
    columns = np.stack([signs, signs], axis=1)
    half = np.arange(300) < 150
    row_weights = np.stack([np.full(300, c), np.where(half, c, 0)], axis=1).astype(np.float32)
    weights, bias = l1.solve(scaled, scaled.T @ scaled, columns, row_weights, lambda: None)
    for column, rows in ((0, np.ones(300, dtype=bool)), (1, half)):
        x, s = scaled[rows].astype(np.float64), signs[rows].astype(np.float64)
        other = LogisticRegression(l1_ratio=1.0, C=c, solver="saga", max_iter=20_000, tol=1e-6).fit(x, s)

        def objective(
            w: NDArray[np.floating], b: float, x: NDArray[np.float64] = x, s: NDArray[np.float64] = s
        ) -> float:
            return float(c * np.logaddexp(0, -s * (x @ w + b)).sum() + np.abs(w).sum())

        ours = objective(weights[:, column], float(bias[column]))
        theirs = objective(other.coef_[0], other.intercept_[0])
        assert ours < theirs * 1.001
        assert weights[:, column] == pytest.approx(other.coef_[0], abs=0.02)


def test_what_on_step_raises_ends_the_fit() -> None:
    steps = []

    def stop() -> None:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt

    features, labels = planted(100, 30, 2, gain=1.0)
    for fit_ in (
        lambda: fit_cv(features.copy(), labels, 2, on_step=stop),
        lambda: fit_unit_cv(features.copy(), labels, on_step=stop),
    ):
        steps.clear()
        with pytest.raises(KeyboardInterrupt):
            fit_()
        assert len(steps) == 3


def test_planted_units_are_found_and_the_head_is_for_raw_features() -> None:
    features, labels = planted(400, 60, 2, gain=3.0)
    fitted = fit(features, labels)
    assert set(fitted.top_units[:2]) == {3, 4}
    assert fitted.c in C_GRID
    assert fitted.folds == 5
    assert fitted.accuracy is not None
    assert fitted.accuracy_deviation is not None
    fresh, fresh_labels = planted(400, 60, 2, gain=3.0)
    assert (fresh == features).all()
    head = fitted.head(["no", "yes"], "cell")
    assert accuracy(head, fresh[:200], fresh_labels[:200]) > 0.95
    assert head.metrics["nonzero_units"] == len(head.weights) >= len(fitted.top_units)
    assert len(fitted.top_units) <= TOP_UNITS


def test_the_estimate_holds_for_fresh_rows() -> None:
    features, labels = planted(1200, 40, 2, gain=1.0)
    for unit_only in (False, True):
        fitted = fit(features[:300], labels[:300], unit_only)
        truth = accuracy(fitted.head(["no", "yes"], "cell"), features[300:], labels[300:])
        assert fitted.accuracy == pytest.approx(truth, abs=0.06)
        assert truth > 0.6


@pytest.mark.parametrize(("classes", "unit_only"), [(2, False), (2, True), (3, False)])
def test_the_confusion_matrix_is_of_the_same_judgement_as_the_accuracy(classes: int, unit_only: bool) -> None:
    features, labels = planted(300, 30, classes, gain=1.5)  # 5 folds of 60
    fitted = fit(features, labels, unit_only)
    assert fitted.confusion is not None
    confusion = np.array(fitted.confusion)
    assert confusion.sum(axis=1).tolist() == np.bincount(labels).tolist()
    assert np.trace(confusion) / confusion.sum() == pytest.approx(fitted.accuracy, abs=1e-12)
    assert 0.6 < np.trace(confusion) / confusion.sum() < 1


def test_the_confusion_matrix_says_which_label_is_taken_for_which() -> None:
    """Classes 0 and 1 differ by nothing, class 2 from both; 1 is rare, so that it is taken for 0."""
    draw = np.random.default_rng(2)
    labels = draw.permutation(np.repeat([0, 1, 2], [160, 20, 120]))
    features = draw.normal(size=(300, 10)).astype(np.float32)
    features[labels == 2, 4] += 12
    assert fit(features, labels).confusion == [[160, 0, 0], [20, 0, 0], [0, 0, 120]]


@pytest.mark.slow
@pytest.mark.parametrize("unit_only", [False, True])
def test_on_noise_the_estimate_is_that_of_guessing(unit_only: bool) -> None:
    """On average: that of one set may lie anywhere near. A unit chosen on all rows would pass for 0.65."""
    estimates = []
    for seed in range(12):
        features, labels = planted(80, 200, 2, gain=0.0, seed=seed)
        fitted = fit(features, labels, unit_only)
        estimates.append(fitted.accuracy)
    assert np.mean(estimates) == pytest.approx(0.5, abs=0.05)  # its own deviation is some 0.02


def test_many_classes_are_one_against_the_rest() -> None:
    features, labels = planted(600, 40, 20, gain=8.0)
    fitted = fit(features, labels)
    assert fitted.accuracy is not None
    assert fitted.accuracy > 0.95
    assert {len(row) for row in [fitted.bias, *fitted.weights.values()]} == {20}
    head = fitted.head([str(label) for label in range(20)], "cell")
    assert (head_probabilities(head, features).argmax(axis=1) == labels).mean() > 0.97
    for label in range(20):
        assert fitted.weights[3 + label][label] == max(fitted.weights[3 + label])


def test_unbalanced_classes() -> None:
    draw = np.random.default_rng(1)
    features = draw.normal(size=(500, 30)).astype(np.float32)
    labels = (np.arange(500) < 7).astype(np.int64)
    features[labels == 1, 5] += 6
    fitted = fit(features, labels)
    assert fitted.folds == 5
    assert fitted.top_units[0] == 5
    head = fitted.head(["often", "seldom"], "cell")
    assert accuracy(head, features[:7], labels[:7]) > 0.8
    assert fit(features, labels, unit_only=True).top_units == [5]
    # Where nothing tells them apart, the most frequent one is named.
    useless = fit(draw.normal(size=(500, 30)).astype(np.float32), labels)
    assert useless.accuracy == pytest.approx(493 / 500, abs=0.01)


@pytest.mark.parametrize("unit_only", [False, True])
@pytest.mark.parametrize(
    ("counts", "folds"), [((1, 1), 0), ((1, 9), 0), ((2, 2), 2), ((3, 4), 3), ((5, 6), 5), ((9, 9), 5)]
)
def test_few_rows(unit_only: bool, counts: tuple[int, int], folds: int) -> None:
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1], counts)
    features = (0.1 * draw.normal(size=(len(labels), 12)) + labels[:, None] * np.eye(12)[5]).astype(np.float32)
    fitted = fit(features, labels, unit_only)
    assert fitted.folds == folds
    assert (fitted.accuracy is None) == (fitted.confusion is None) == (folds == 0)
    assert (fitted.c is None) == unit_only
    head = fitted.head(["no", "yes"], "cell")
    if folds != 2:  # there a fold fits on two rows, whose every unit tells them apart
        assert accuracy(head, features, labels) == 1.0
    assert ("accuracy" in head.metrics) == (folds > 0)


def test_the_single_unit_is_that_of_find_unit() -> None:
    features, labels = planted(400, 30, 2, gain=2.0, seed=3)
    for sign in (1, -1):
        fitted = fit(sign * features, labels, unit_only=True)
        assert fitted.top_units == list(fitted.weights) == [find_unit(sign * features, labels)]
        head = fitted.head(["no", "yes"], "cell")
        assert accuracy(head, sign * features, labels) == pytest.approx(fitted.accuracy, abs=0.05)
        probabilities = head_probabilities(head, sign * features)
        assert 0.01 < probabilities.min() < 0.4


def test_a_fit_is_the_same_every_time() -> None:
    features, labels = planted(200, 30, 3, gain=1.0)
    assert fit(features, labels) == fit(features, labels)
    assert fit(features, labels % 2, unit_only=True) == fit(features, labels % 2, unit_only=True)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_units_scales_do_not_matter(scale: float) -> None:
    features, labels = planted(200, 20, 2, gain=2.0)
    one, other = fit(features, labels), fit((features * scale).astype(np.float32), labels)
    assert one.c == other.c
    assert one.top_units == other.top_units
    assert one.accuracy == other.accuracy
    assert np.isfinite([value for row in other.weights.values() for value in row]).all()


@pytest.mark.parametrize("unit_only", [False, True])
@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (np.ones((6, 4), np.float32), [0, 1] * 3, "none of 4 units differs between the labels of 6 rows"),
        (np.ones((6, 4), np.float32), [1] * 6, "of 2 labels 1 have rows"),
        (np.full((2, 4), np.nan, np.float32), [0, 1], "not finite"),
        (np.full((2, 4), 1e31, np.float32), [0, 1], "not finite or beyond"),
        (np.ones((2, 4)), [0, 1], "float64 of shape"),
        (np.ones((2, 4), np.float32), [0, 1, 1], "labels"),
        (np.ones((2, 0), np.float32), [0, 1], "more than 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    unit_only: bool, features: NDArray[np.floating], labels: list[int], words: str
) -> None:
    with pytest.raises(HeadError, match=words):
        (fit_unit_cv(features, np.array(labels)) if unit_only else fit_cv(features, np.array(labels), 2))  # type: ignore[arg-type]


def test_the_features_are_never_copied() -> None:
    features, labels = planted(20_000, 64, 2, gain=1.0)
    for fit_ in (lambda: fit_cv(features, labels, 2), lambda: fit_unit_cv(features, labels)):
        tracemalloc.start()
        fit_()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # What each of 45 problems has, some 30 bytes a row, weighs as much as the features at so few units.
        assert peak < 20_000 * 64 * 40


@pytest.mark.parametrize(
    ("accuracy", "rows", "low", "high"),
    # The last two by hand: with all right, the lower end is n / (n + z^2).
    [(0.5, 10, 0.2366, 0.7634), (0.9, 100, 0.8256, 0.9448), (1.0, 4, 4 / (4 + 1.96**2), 1.0), (0.0, 1, 0.0, 0.7935)],
)
def test_the_interval_of_an_accuracy(accuracy: float, rows: int, low: float, high: float) -> None:
    assert accuracy_interval(accuracy, rows) == pytest.approx((low, high), abs=1e-4)
