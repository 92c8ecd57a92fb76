"""How many rows of a model may share a block after a block of it has run out of memory."""

import weakref

import torch

from engine.backend import Backend

# After this many blocks that fitted, the limit grows by a quarter.
_BLOCKS_TO_GROW = 64


class RowLimits:
    """Halves the rows of a model whose block did not fit, and gives them back little by little while blocks fit."""

    def __init__(self, max_rows: int) -> None:
        """max_rows: of a block, where memory suffices."""
        self._max_rows = max_rows
        # Models whose blocks ran out of memory: the limit now, and blocks that fitted under it.
        self._reduced: weakref.WeakKeyDictionary[Backend, tuple[int, int]] = weakref.WeakKeyDictionary()

    def of(self, backend: Backend) -> int:
        """The most rows of the next block."""
        limit, _ = self._reduced.get(backend, (self._max_rows, 0))
        return limit

    def reduce(self, backend: Backend, rows: int) -> int:
        """A block of `rows` rows, 2 at least, has not fitted. Returns the new limit."""
        self._reduced[backend] = rows // 2, 0
        return rows // 2

    def fitted(self, backend: Backend) -> None:
        """A block has fitted."""
        if backend not in self._reduced:
            return
        limit, blocks = self._reduced[backend]
        if blocks + 1 < _BLOCKS_TO_GROW:
            self._reduced[backend] = limit, blocks + 1
        elif (grown := limit + max(1, limit // 4)) < self._max_rows:
            self._reduced[backend] = grown, 0
        else:
            del self._reduced[backend]


def is_out_of_memory(error: Exception) -> bool:
    """On a GPU torch raises a type of its own, on a CPU only the message says so."""
    words = "out of memory", "can't allocate memory", "not enough memory"
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )
