"""`Familiarity`: from how many bits per byte on a text is unlike those that a model was trained on.

A model that has learnt English reviews takes more bits per byte for another language, for code or for noise. What is
too much depends on the length, because few bytes say little: the limit at each of some lengths is what a share of
held-out texts of that length, 99 of 100, stay below. Between two lengths it is interpolated by their logarithm.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LENGTHS = (16, 32, 64, 128, 256, 512)
_SHARE = 0.99
_FEWEST = 2000  # texts of a length, for its limit: 20 of them lie above it


@dataclass(frozen=True)
class Familiarity:
    """lengths: bytes of prepared texts, rising; bits: per byte, the limit at each. share: of texts below it.

    texts: how many texts each limit is from; data: what they were, in words.
    """

    lengths: list[int]
    bits: list[float]
    share: float
    texts: list[int]
    data: str

    def limit(self, length: int) -> float | None:
        """Bits per byte that a text of `length` bytes should not exceed; None where it is too short to say."""
        if length < self.lengths[0]:
            return None
        return float(np.interp(np.log(length), np.log(self.lengths), self.bits))


def find_limits(
    bits: NDArray[np.float32], positions: NDArray[np.int64], lengths: NDArray[np.int64], data: str
) -> Familiarity | None:
    """The limits by held-out texts; None where there are too few. lengths: (texts,), bytes of each prepared text.

    bits: (texts, positions), of the bytes at `positions`, rising, which each text has as far as it is long. A text is
    one of every length that it reaches: its first bytes are as good as a text that ends there.
    """
    found: dict[int, tuple[float, int]] = {}
    for length in _LENGTHS:
        reached = lengths >= length
        if reached.sum() >= _FEWEST:
            per_byte = bits[reached][:, positions < length].mean(axis=1)
            found[length] = float(np.quantile(per_byte, _SHARE)), int(reached.sum())
    if not found:
        return None
    limits, texts = zip(*found.values(), strict=True)
    return Familiarity(list(found), list(limits), _SHARE, list(texts), data)
