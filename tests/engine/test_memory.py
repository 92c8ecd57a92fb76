"""Rows that do not fit into memory run a few at a time, lose nothing, and later run together again."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from engine.backend import BlockRow, BlockRowResult
from engine.engine import Engine
from engine.folded import FoldedModel
from engine.memory import RowLimits
from engine.observer import Observer
from engine.reading import read_features
from engine.rows import EngineFailure, RowRequest
from engine.torch_backend import TorchBackend
from tests.conftest import tiny_model

FOLDED = FoldedModel(tiny_model(), dtype=torch.float32)
TEXTS = [bytes([number]) * (400 + 10 * number) for number in range(16)]
ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
]


class Small(TorchBackend):
    """Has memory for so many rows, and finds out in the middle of a block."""

    def __init__(self, error: Exception, fits: int) -> None:
        super().__init__(FOLDED, max_rows=16)
        self.blocks: list[int] = []
        self._error, self.fits = error, fits

    def run(self, block: list[BlockRow], interrupted: Callable[[], bool] = bool) -> list[BlockRowResult]:
        self.blocks.append(len(block))

        def fails() -> bool:
            if len(block) > self.fits:
                raise self._error
            return interrupted()

        return super().run(block, fails)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_rows_run_a_few_at_a_time_and_lose_nothing(engine: Engine, error: Exception) -> None:
    backend = Small(error, fits=3)
    rows = engine.submit(backend, [RowRequest(text, mean=True) for text in TEXTS], threading.Event())
    results = [row.done.result(60) for row in rows]
    np.testing.assert_allclose([result.cell for result in results], read_features(FOLDED, TEXTS), atol=1e-5)
    np.testing.assert_array_equal([result.mean for result in results], read_features(FOLDED, TEXTS, "mean"))
    assert backend.blocks[:4] == [16, 8, 4, 2]
    assert 3 in backend.blocks  # grown, as far as it fits


def test_rows_run_together_again_when_there_is_memory(engine: Engine) -> None:
    backend = Small(MemoryError(), fits=8)
    # From the end of the first row on there is memory; the others need more blocks than a limit takes to grow.
    rows = engine.submit(backend, [RowRequest(b"x"), *(RowRequest(text * 2) for text in TEXTS[1:])], threading.Event())
    rows[0].done.add_done_callback(lambda _: setattr(backend, "fits", 16))
    for row in rows:
        row.done.result(60)
    (again,) = engine.submit(backend, [RowRequest(b"y")], threading.Event())
    again.done.result(60)
    assert max(backend.blocks[2:]) > 8


def test_one_row_that_does_not_fit_fails_alone(engine: Engine) -> None:
    backend = Small(MemoryError(), fits=0)
    rows = engine.submit(backend, [RowRequest(text) for text in TEXTS[:4]], threading.Event())
    for row in rows:
        with pytest.raises(EngineFailure, match="MemoryError"):
            row.done.result(60)
    assert engine.alive


@pytest.mark.parametrize("fits", [1, 4])
def test_a_bulk_row_runs_beside_more_interactive_rows_than_fit(engine: Engine, fits: int) -> None:
    backend, cancelled = Small(MemoryError(), fits), threading.Event()
    endless = [RowRequest(bytes([number]), generate=10**9) for number in range(8)]
    rows = engine.submit(backend, endless, cancelled)
    (bulk,) = engine.submit(backend, [RowRequest(b"a text that nobody waits for", priority="bulk")], threading.Event())
    assert bulk.done.result(30).cell.shape == (48,)
    assert not any(row.done.done() for row in rows)
    cancelled.set()


def test_every_block_that_does_not_fit_is_reported() -> None:
    class Counting(Observer):
        blocks = 0

        def out_of_memory(self) -> None:
            self.blocks += 1

    counting, backend = Counting(), Small(MemoryError(), fits=3)
    engine = Engine(max_rows=16, block_steps=8, observer=counting)
    engine.start()
    try:
        for row in engine.submit(backend, [RowRequest(text) for text in TEXTS], threading.Event()):
            row.done.result(60)
    finally:
        engine.close()
    assert counting.blocks == sum(rows > backend.fits for rows in backend.blocks)


def test_a_limit_halves_and_grows_back_by_quarters_until_it_is_gone() -> None:
    limits, backend, other = RowLimits(16), Small(MemoryError(), 16), Small(MemoryError(), 16)
    assert limits.reduce(backend, 16) == limits.of(backend) == 8
    seen = []
    while limits.of(backend) < 16:
        for _ in range(64):
            limits.fitted(backend)
        seen.append(limits.of(backend))
    assert seen == [10, 12, 15, 16]
    assert limits.of(other) == 16
