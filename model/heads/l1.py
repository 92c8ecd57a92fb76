"""L1 logistic regression of many problems at once on the same features: `solve`, and `fit` for a grid of C.

    minimize over w, b   sum over rows i of v_i log(1 + exp(-s_i (x_i·w + b))) + sum over units u of p_u |w_u|

with signs s = ±1, row weights v >= 0 (C for a row that is fitted on, 0 for one that is held out) and penalties p: 1 for
weights of features that are scaled to deviation 1; of raw features the weight is w_u over the unit's deviation, so p_u
is 1 over that. So the folds of a cross-validation, every C, both scalings and every class are columns of one product
with the features, which are never copied.

The loss curves no more than a quadratic with Hessian a XᵀX, a = max v / 4 (Böhning & Lindsay 1988), which all problems
share but for a. So every step minimizes that quadratic plus the penalty, coordinate by coordinate (Krishnapuram et al.
2005); the objective falls at each. liblinear would need 40 bytes a feature, and fit one problem after the other; this
needs the features themselves, in float32, and a Gram matrix of units x units. The intercept b is not penalized.
"""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from model.heads.checks import Floats
from model.heads.standardization import Standardization

Matrix = NDArray[np.float32]

COLUMNS = 64  # problems solved at once: they share each look at the features; a row costs some 30 bytes for each
_MAX_STEPS = 100
# Of the gradient, in parts of the penalty: weights are then within about a hundredth of where they would end.
_TOLERANCE = 0.02
_SWEEPS = 4  # over the coordinates, for one look at the features


def fit(
    x: NDArray[np.floating], y: NDArray[np.int64], classes: int, grid: Sequence[tuple[float, bool]]
) -> list[tuple[Floats, Floats]]:
    """For each (C, whether units are scaled to deviation 1) weights (rows of the classifier, units) and intercepts.

    x: (rows, units), raw, and so is what the weights are for; y: (rows,), 0 to classes - 1, each present. Two classes:
    one row, for the second; more are fitted one against the rest, a row each.
    """
    standard = Standardization.of(x)
    scaled = standard.scaled(x).astype(np.float32)
    gram = scaled.T @ scaled
    positives = [1] if classes == 2 else list(range(classes))
    problems = list(product(grid, positives))
    weights, bias = np.empty((len(problems), x.shape[1])), np.empty(len(problems))
    for begin in range(0, len(problems), COLUMNS):
        chunk = problems[begin : begin + COLUMNS]
        columns = slice(begin, begin + len(chunk))
        signs = np.stack([signs_of(y, positive) for _, positive in chunk], axis=1)
        row_weights = np.broadcast_to(np.array([c for (c, _), _ in chunk], np.float32), signs.shape)
        penalty = np.stack(
            [np.ones(x.shape[1]) if alike else 1 / standard.deviation for (_, alike), _ in chunk], axis=1
        )
        found, bias[columns] = solve(scaled, gram, signs, row_weights, penalty=penalty.astype(np.float32))
        weights[columns] = found.T
    weights, bias = standard.folded(weights, bias)
    count = len(positives)
    return [(weights[row : row + count], bias[row : row + count]) for row in range(0, len(problems), count)]


def signs_of(y: NDArray[np.int64], positive: int) -> Matrix:
    """1 for the rows of class `positive`, else -1. y: (rows,)"""
    return np.where(y == positive, np.float32(1), np.float32(-1))


def solve(
    x: Matrix,
    gram: Matrix,
    signs: Matrix,
    row_weights: Matrix,
    on_step: Callable[[], None] = lambda: None,
    penalty: Matrix | None = None,
) -> tuple[Matrix, Matrix]:
    """Weights (units, problems) and intercepts (problems,).

    x: (rows, units), each unit of mean 0 and deviation 1 or 0 over all rows; gram: xᵀx, (units, units); signs,
    row_weights: (rows, problems); penalty: (units, problems), 1 if left out, 0 only where the unit is. A problem ends
    where no gradient exceeds its penalty or, where classes are easy to separate, near there after `_MAX_STEPS`.
    on_step is called before every look at the features; what it raises ends the fit.
    """
    diagonal = np.diag(gram).copy()
    if penalty is None:
        penalty = np.ones((x.shape[1], signs.shape[1]), np.float32)
    weights = np.zeros((x.shape[1], signs.shape[1]), np.float32)
    bias = np.zeros(signs.shape[1], np.float32)
    bound = np.maximum(row_weights.max(axis=0) / 4, np.finfo(np.float32).tiny)  # (problems,): a
    # The intercept puts the right share of the rows on either side, to a thousandth of all rows.
    bias_tolerance = np.minimum(_TOLERANCE, row_weights.sum(axis=0) / 1000)
    left = np.arange(signs.shape[1])  # problems that are not done
    for _ in range(_MAX_STEPS):
        on_step()
        z = x @ weights[:, left]
        z += bias[left]
        z *= signs[:, left]
        # Of the loss by x·w + b: -s v σ(-s z), here without overflow.
        slope = (np.tanh(z / 2) - 1) * (signs[:, left] * row_weights[:, left] / 2)
        gradient, bias_gradient = x.T @ slope, slope.sum(axis=0)
        chosen = weights[:, left]
        held = penalty[:, left]
        pull = np.where(chosen != 0, np.abs(gradient + np.sign(chosen) * held), np.abs(gradient) - held)
        open_ = (pull > _TOLERANCE * held).any(axis=0) | (np.abs(bias_gradient) > bias_tolerance[left])
        left = left[open_]
        if len(left) == 0:
            break
        bias[left] -= bias_gradient[open_] / (bound[left] * len(x))
        step = chosen[:, open_], gradient[:, open_] / bound[left], held[:, open_] / bound[left]
        weights[:, left] = _descend(gram, diagonal, *step)
    return weights, bias


def _descend(gram: Matrix, diagonal: Matrix, weights: Matrix, gradient: Matrix, penalty: Matrix) -> Matrix:
    """Sweep over the coordinates of the quadratic around `weights`; gradient and penalty are divided by a."""
    # What is zero and does not pull hard enough stays zero. If other units' moves change that, the next step finds it.
    units = np.flatnonzero(((weights != 0) | (np.abs(gradient) > penalty)).any(axis=1) & (diagonal > 0))
    moved, gradient = weights[units], gradient[units]  # nobody looks at the others
    diagonal, least = diagonal[units], penalty[units] / diagonal[units, None]
    for _ in range(_SWEEPS):
        for place, unit in enumerate(units):
            before = moved[place]
            best = before - gradient[place] / diagonal[place]
            # This loop is the cost of a fit: np.clip and any() would take half of it for what they are wrapped in.
            best -= np.minimum(np.maximum(best, -least[place]), least[place])
            step = best - before
            if np.count_nonzero(step):
                gradient += gram[unit].take(units)[:, None] * step
                moved[place] = best
    weights = weights.copy()
    weights[units] = moved
    return weights
