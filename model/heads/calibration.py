"""Honest probabilities: `calibrated` fits a head's certainty to texts that its fit did not see; the error of both.

A head that was fitted with a penalty, or whose features have seen its texts, is too certain or not certain enough. Its
log-odds z, (rows, labels), become

    z'_k = a z_k + b_k        a > 0, b_0 = 0

with a and b of the greatest likelihood. With two labels that is Platt scaling (Platt 1999), with more temperature
scaling with a bias for each label (Guo et al. 2017, arXiv 1706.04599; Alexandari et al. 2020, arXiv 1901.06852). Labels
are smoothed as Platt has it, so that texts that a head separates without error leave `a` finite. Both are folded into
the head's weights and bias: a calibrated head costs nothing more to apply.

The expected calibration error (ECE) is Guo's: texts go into 15 bins of equal width by the probability of their most
probable label; the mean over texts of the distance, within a bin, between mean probability and share of right answers.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from model.heads.checks import Floats, HeadError, Labels, checked
from model.heads.classifier import Calibrated, Head, head_log_odds, head_probabilities

_BINS = 15
_STEPS = 100
_ENOUGH = 1e-9  # of the loss, nats a row: below it no further step is taken


def calibrated(head: Head, features: ArrayLike, labels: ArrayLike, weights: ArrayLike, data: str) -> Head:
    """The head with its probabilities fitted. features: (rows, units), raw; labels: (rows,) integers.

    weights: (rows,), at least 0, how much each counts. data: what the rows are, in words, for the manifest. Raises
    HeadError where a label has no row of any weight, or the head orders the rows no better than chance.
    """
    count = len(head.labels)
    x, y = checked("calibration", features, labels, count)
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != y.shape or not (w >= 0).all():
        raise HeadError(f"calibration weights have shape {w.shape} for {len(y)} rows, or some are negative")
    sizes = np.array([w[y == label].sum() for label in range(count)])
    for name, size in zip(head.labels, sizes, strict=True):
        if size == 0:
            raise HeadError(f"label {name!r} has no row to calibrate with: add some")
    scale, shift = _fit(_all_log_odds(head, x), y, w / w.sum(), np.bincount(y[w > 0], minlength=count))
    if scale <= 0:
        raise HeadError(f"the head {head.labels} is right no more often than chance on {len(y)} rows: it says nothing")
    rows = shift[1:] if count == 2 else shift
    return replace(
        head,
        weights={unit: [scale * value for value in values] for unit, values in head.weights.items()},
        bias=[float(scale * value + moved) for value, moved in zip(head.bias, rows, strict=True)],
        calibration=Calibrated("platt" if count == 2 else "temperature+bias", len(y), data),
    )


def calibration_error(head: Head, features: ArrayLike, labels: ArrayLike) -> float:
    """The expected calibration error on these rows, 0 to 1. features: (rows, units), raw; labels: (rows,) integers."""
    x, y = checked("calibration", features, labels, len(head.labels))
    return expected_calibration_error(head_probabilities(head, x), y)


def expected_calibration_error(probabilities: Floats, labels: Labels) -> float:
    """probabilities: (rows, labels); labels: (rows,) integers."""
    surest = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((surest * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=right - surest, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _all_log_odds(head: Head, x: Floats) -> Floats:
    """(rows, labels): with two labels those of the first are 0."""
    logits = head_log_odds(head, x)
    return logits if len(head.labels) > 2 else np.concatenate([np.zeros_like(logits), logits], axis=1)


def _fit(z: Floats, y: Labels, w: Floats, sizes: Labels) -> tuple[float, Floats]:
    """By Newton's method, with steps that are halved until they help. Returns a, and b of every label, (labels,).

    z: (rows, labels); w: (rows,), sum 1; sizes: (labels,), rows of each.
    """
    rows, count = z.shape
    others = 1 / (sizes + count)
    targets = np.repeat(others[y][:, None], count, axis=1)
    targets[np.arange(rows), y] = (sizes[y] + 1) * others[y]
    parameters = np.concatenate([[1.0], np.zeros(count - 1)])
    loss, gradient, curvature = _loss(z, targets, w, parameters)
    for _ in range(_STEPS):
        step = np.linalg.solve(curvature + 1e-12 * np.eye(count), gradient)
        for _ in range(_STEPS):
            moved = _loss(z, targets, w, parameters - step)
            if moved[0] <= loss:
                break
            step /= 2
        gained = loss - moved[0]
        parameters = parameters - step
        loss, gradient, curvature = moved
        if gained < _ENOUGH:
            break
    return float(parameters[0]), np.concatenate([[0.0], parameters[1:]])


def _loss(z: Floats, targets: Floats, w: Floats, parameters: Floats) -> tuple[float, Floats, Floats]:
    """Mean cross-entropy, its gradient (labels,) and its second derivatives (labels, labels), by a and b_1 ..."""
    logits = parameters[0] * z + np.concatenate([[0.0], parameters[1:]])
    highest = logits.max(axis=1, keepdims=True)
    log_sum = highest + np.log(np.exp(logits - highest).sum(axis=1, keepdims=True))
    log_p = logits - log_sum
    p = np.exp(log_p)
    excess = (p - targets) * w[:, None]
    gradient = np.concatenate([[(excess * z).sum()], excess.sum(axis=0)[1:]])
    mean_z = (p * z).sum(axis=1)
    weighted = p * w[:, None]
    spread = z - mean_z[:, None]
    curvature = np.empty((len(gradient), len(gradient)))
    curvature[0, 0] = (weighted * spread**2).sum()
    curvature[0, 1:] = curvature[1:, 0] = (weighted * spread).sum(axis=0)[1:]
    curvature[1:, 1:] = np.diag(weighted.sum(axis=0)[1:]) - (weighted.T @ p)[1:, 1:]
    return float(-(targets * log_p * w[:, None]).sum()), gradient, curvature
