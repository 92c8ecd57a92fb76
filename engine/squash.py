"""A reused buffer with a fast and reproducible sigmoid: `Squashed`.

On a CPU, torch splits an element-wise operation among its threads, and each thread computes what is left of its part
after whole vectors by another formula, which may differ in the last bit. So a value would depend on where its row
stands. Here every thread gets whole vectors: the operation runs a few elements beyond the rows, into slack.

tanh(x) = 1 - 2σ(-2x) serves for tanh: torch's own takes ten times as long as its sigmoid on a CPU.
"""

import torch
from torch import Tensor

_GRAIN = 32768  # at::internal::GRAIN_SIZE: elements below which torch does not use another thread
_VECTORS = 64  # elements of two vectors, which ATen's loops take at once, in the widest vectors and twice that


class Squashed:
    """Float32 rows whose memory every step uses again, so that none is allocated and touched for the first time."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._width = width
        self._flat = torch.empty(0, device=device)

    def rows(self, count: int) -> Tensor:
        """(count, width), with any values."""
        size = count * self._width
        if self._flat.numel() < self._whole(size):
            self._flat = torch.zeros(self._whole(size), device=self._flat.device)
        return self._flat[:size].view(count, self._width)

    def sigmoid_(self, count: int) -> None:
        """In place on the first `count` rows."""
        self._flat[: self._whole(count * self._width)].sigmoid_()

    def _whole(self, size: int) -> int:
        """The least number of elements from `size` on of which every thread gets whole vectors."""
        threads = max(1, min(torch.get_num_threads(), -(-size // _GRAIN)))
        return -(-size // (threads * _VECTORS)) * threads * _VECTORS
