"""Which texts are read side by side: texts of about one length, so that little is spent on padding."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_JITTER = 0.1  # lengths are taken this much longer or shorter at random, so that no two epochs have the same batches


def batches(
    lengths: NDArray[np.int64], size: int, most_tokens: int, generator: np.random.Generator | None = None
) -> Iterator[NDArray[np.int64]]:
    """Every text once, in batches of `size` texts or fewer, by their numbers.

    lengths: of the texts, in tokens. most_tokens: a batch times its longest text has no more, but for a text that alone
    is longer. generator: shuffles; None: the longest first, so that too little memory is noticed
    at once.
    """
    keys = lengths.astype(np.float64)
    if generator is not None:
        keys *= generator.uniform(1 - _JITTER, 1 + _JITTER, len(lengths))
    order = np.argsort(-keys, kind="stable")
    made = list(_cut(order, lengths, size, most_tokens))
    if generator is not None:
        generator.shuffle(made)
    yield from made


def _cut(
    order: NDArray[np.int64], lengths: NDArray[np.int64], size: int, most_tokens: int
) -> Iterator[NDArray[np.int64]]:
    begin = 0
    longest = 0
    for end, text in enumerate(order):
        longest = max(longest, int(lengths[text]))
        rows = end - begin + 1
        if rows > 1 and (rows > size or rows * longest > most_tokens):
            yield order[begin:end]
            begin, longest = end, int(lengths[text])
    if begin < len(order):
        yield order[begin:]
