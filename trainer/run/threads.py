"""How many threads of a CPU train: `set_threads`."""

import torch

from model.network.cells import GATES, CellName

_FLOP_OF_A_THREAD = 4_000_000  # some 0.05 ms


def set_threads(cell: CellName, units: int, rows: int, wanted: int = 0) -> int:
    """Let torch compute with `wanted` threads, or with as many as the recurrent products of a step keep busy.

    Where each has less to do than threads take to wait for each other, several are slower than one, and much slower
    where other processes want the cores. Returns the number.
    """
    flop = 2 * rows * units * (GATES[cell] + (cell == "mlstm")) * units
    threads = wanted or max(1, min(torch.get_num_threads(), flop // _FLOP_OF_A_THREAD))
    torch.set_num_threads(threads)
    return threads
