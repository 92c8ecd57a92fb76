"""`pool`: what was read of a text becomes its feature vector. Only NumPy is needed."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pooling = Literal["cell", "tanh", "mean"]


def pool(cell: NDArray[np.float32], mean: NDArray[np.float32] | None, pooling: Pooling) -> NDArray[np.float32]:
    """The feature vector: the final cell itself (the released code), its tanh (the paper's text), or the mean of the
    hidden vector over all bytes. Raises ValueError for a mean that is not there."""
    match pooling:
        case "cell":
            return cell
        case "tanh":
            return np.tanh(cell)
        case "mean":
            if mean is None:
                raise ValueError("the mean was not read")
            return mean
