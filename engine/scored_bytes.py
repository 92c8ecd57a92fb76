"""Which bytes of a text are scored (scoring.py): every second one, up to a limit. No torch.

With the first bytes it is known what kind of text it is, so a long text costs no more.
"""

import numpy as np
from numpy.typing import NDArray

_FIRST = 3  # position in the prepared text: every text begins alike, and a byte or two say nothing
_EVERY = 2
MOST_BYTES = 512


def scored(begin: int, end: int) -> NDArray[np.int64]:
    """The scored positions of a prepared text from `begin` to before `end`, (positions,)."""
    first = max(begin, _FIRST)
    return np.arange(first + (first - _FIRST) % _EVERY, min(end, MOST_BYTES), _EVERY, dtype=np.int64)
