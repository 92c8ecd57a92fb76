"""The histogram of the sentiment unit by class (Radford et al. 2017, figure 3): a peak for each shows that it tells.

Values are raw, as the unit has them at the end of a text. Only NumPy is needed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.heads.checks import Floats, Labels
from model.heads.classifier import SENTIMENT_LABELS

BINS = 50
MAX_BINS = 100


@dataclass(frozen=True)
class Histogram:
    """How many texts of each label end with the unit in which bin; the last bin has its upper edge as well."""

    edges: list[float]  # (bins + 1,), rising
    counts: dict[str, list[int]]  # of negative and positive, (bins,) each
    data: str  # what the texts were, in words


def bin_edges(values: NDArray[np.floating]) -> Floats:
    """Of BINS bins of one width from the least to the greatest value, (BINS + 1,). values: of any shape."""
    return np.histogram_bin_edges(values.astype(np.float64), BINS)


def histogram(values: NDArray[np.floating], labels: Labels, data: str) -> Histogram:
    """values: (texts,) of the unit; labels: (texts,) 0 or 1."""
    edges = bin_edges(values)
    counts = [np.histogram(values[labels == label], edges)[0].tolist() for label in range(len(SENTIMENT_LABELS))]
    return Histogram(edges.tolist(), dict(zip(SENTIMENT_LABELS, counts, strict=True)), data)
