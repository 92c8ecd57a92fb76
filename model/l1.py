"""L1 logistic regression of many problems at once on the same features: `solve`.

    minimize over w, b   sum over rows i of v_i log(1 + exp(-s_i (x_i·w + b))) + |w|_1

with signs s = ±1 and row weights v >= 0: C for a row that is fitted on, 0 for one that is held out. So the folds of a
cross-validation, every C and every class are columns of one product with the features, which are never copied.

The loss curves no more than a quadratic with Hessian a XᵀX, a = max v / 4 (Böhning & Lindsay 1988), which all problems
share but for a. So every step minimizes that quadratic plus |w|_1, coordinate by coordinate (Krishnapuram et al. 2005);
the objective falls at each. liblinear, which model/heads.py calls, would need 40 bytes a feature; this needs the
features themselves, in float32, and a Gram matrix of units x units. The intercept b is not penalized.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

_MAX_STEPS = 100
# Of the gradient, whose penalty is 1: weights are then within about a hundredth of where they would end.
_TOLERANCE = 0.02
_SWEEPS = 4  # over the coordinates, for one look at the features


def solve(
    x: Matrix, gram: Matrix, signs: Matrix, row_weights: Matrix, on_step: Callable[[], None]
) -> tuple[Matrix, Matrix]:
    """Weights (units, problems) and intercepts (problems,).

    x: (rows, units), each unit of mean 0 and deviation 1 or 0 over all rows; gram: xᵀx, (units, units); signs,
    row_weights: (rows, problems). A problem ends where no gradient pulls any more or, should its classes be easy to
    tell apart, after so many steps, near there. on_step is called before every look at the features; what it raises
    ends the fit.
    """
    diagonal = np.diag(gram).copy()
    weights = np.zeros((x.shape[1], signs.shape[1]), np.float32)
    bias = np.zeros(signs.shape[1], np.float32)
    bound = np.maximum(row_weights.max(axis=0) / 4, np.finfo(np.float32).tiny)  # (problems,): a
    # Of so many rows as there are, the intercept puts the right share on either side, to a thousandth.
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
        pull = np.where(chosen != 0, np.abs(gradient + np.sign(chosen)), np.abs(gradient) - 1)
        open_ = (pull.max(axis=0) > _TOLERANCE) | (np.abs(bias_gradient) > bias_tolerance[left])
        left = left[open_]
        if len(left) == 0:
            break
        bias[left] -= bias_gradient[open_] / (bound[left] * len(x))
        weights[:, left] = _descend(gram, diagonal, chosen[:, open_], gradient[:, open_] / bound[left], 1 / bound[left])
    return weights, bias


def _descend(gram: Matrix, diagonal: Matrix, weights: Matrix, gradient: Matrix, penalty: Matrix) -> Matrix:
    """Sweep over the coordinates of the quadratic around `weights`; gradient and penalty are divided by a."""
    weights, gradient = weights.copy(), gradient.copy()
    # What is zero and does not pull hard enough stays zero. If others' moves change that, the next step will see.
    units = np.flatnonzero(((weights != 0) | (np.abs(gradient) > penalty)).any(axis=1) & (diagonal > 0))
    for _ in range(_SWEEPS):
        for unit in units:
            before = weights[unit]
            best = before - gradient[unit] / diagonal[unit]
            best -= np.clip(best, -penalty / diagonal[unit], penalty / diagonal[unit])
            step = best - before
            if step.any():
                gradient += gram[unit, :, None] * step
                weights[unit] = best
    return weights
