"""The L1 solver on a grid of raw features, against scikit-learn."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from model.heads import l1
from model.heads.classifier import C_GRID


def planted(rows: int, units: int, classes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Noise of different scales and places; units 3 and on say which class it is. The last unit never changes."""
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.arange(rows) % classes)
    features = draw.normal(size=(rows, units))
    features[np.arange(rows), 3 + labels] += 1.0
    features = features * 10.0 ** draw.uniform(-0.5, 0.5, units) + draw.normal(size=units)
    features[:, -1] = 0.3
    return features, labels


@pytest.mark.parametrize("standardized", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_grid_ends_where_scikit_learn_does(standardized: bool, classes: int) -> None:
    x, labels = planted(300, 30, classes)
    deviation = x.std(axis=0) if standardized else np.ones(30)
    deviation[-1] = 1.0
    grid = list(C_GRID[2::3])
    fitted = l1.fit(x, labels, classes, [(c, standardized) for c in grid])
    assert len(fitted) == len(grid)
    for c, (weights, bias) in zip(grid, fitted, strict=True):
        positives = [1] if classes == 2 else [0, 1, 2]
        assert weights.shape == (len(positives), 30)
        assert bias.shape == (len(positives),)
        assert not weights[:, -1].any()
        for row, positive in enumerate(positives):
            s = np.where(labels == positive, 1, -1)
            other = LogisticRegression(l1_ratio=1.0, C=c, solver="saga", max_iter=20_000, tol=1e-6)
            other.fit(x / deviation, s)

            def objective(w: NDArray[np.float64], b: float, c: float = c, s: NDArray[np.int64] = s) -> float:
                return float(c * np.logaddexp(0, -s * (x / deviation @ w + b)).sum() + np.abs(w).sum())

            ours = objective(weights[row] * deviation, float(bias[row]))
            assert ours < objective(other.coef_[0], float(other.intercept_[0])) * 1.001
            assert weights[row] * deviation == pytest.approx(other.coef_[0], abs=0.03)
