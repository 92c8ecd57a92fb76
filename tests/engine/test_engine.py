"""The engine: rows join and leave between steps, share steps, never disturb each other, and always end."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.backend import BlockRow, BlockRowResult
from engine.engine import Engine
from engine.folded import FoldedModel
from engine.observer import Observer
from engine.reading import read_features
from engine.rows import DeadlineExceeded, EngineFailure, RowCancelled, RowRequest, RowResult, Sampling
from engine.torch_backend import TorchBackend
from tests.conftest import BLOCK_STEPS, tiny_model, wait_until
from tests.support.exact import mean_hidden
from tests.support.examples import examples

FOLDED = FoldedModel(tiny_model(), dtype=torch.float32)
_random = np.random.default_rng(0)
TEXTS = [_random.integers(0, 256, size, dtype=np.uint8).tobytes() for size in _random.integers(1, 300, 60)]


@pytest.fixture
def backend() -> TorchBackend:
    return TorchBackend(FOLDED, max_rows=16)


def run(engine: Engine, backend: TorchBackend, *requests: RowRequest) -> list[RowResult]:
    rows = engine.submit(backend, requests, threading.Event())
    return [row.done.result(60) for row in rows]


def test_more_rows_than_fit_read_what_the_model_reads_alone(engine: Engine, backend: TorchBackend) -> None:
    results = run(engine, backend, *[RowRequest(text) for text in TEXTS])
    np.testing.assert_allclose([result.cell for result in results], read_features(FOLDED, TEXTS, rows=1), atol=1e-5)


@pytest.mark.parametrize("block_steps", [1, 3, 64])
def test_the_length_of_a_block_changes_nothing(block_steps: int, backend: TorchBackend) -> None:
    engine = Engine(max_rows=16, block_steps=block_steps)
    engine.start()
    try:
        requests = [RowRequest(text, generate=20, sampling=Sampling(seed=3), traced=(1,)) for text in TEXTS[:5]]
        results = run(engine, backend, *requests)
    finally:
        engine.close()
    reference = Engine(max_rows=16, block_steps=8)
    reference.start()
    for request, result in zip(requests, results, strict=True):
        (alone,) = run(reference, backend, request)
        assert (alone.text, alone.generated) == (result.text, result.generated)
        np.testing.assert_allclose(alone.trace, result.trace, atol=1e-5)
        assert alone.log_probability == pytest.approx(result.log_probability, abs=1e-3)
    reference.close()


@pytest.mark.parametrize("block_steps", [1, 8, 64])
def test_a_mean_is_that_of_the_plain_loop_and_the_same_to_the_bit_beside_any_rows(block_steps: int) -> None:
    model = tiny_model()
    running, backend = Engine(max_rows=5, block_steps=block_steps), TorchBackend(FOLDED, max_rows=5)
    running.start()
    try:
        results = run(running, backend, *[RowRequest(text, mean=True) for text in TEXTS[:12]])
        plain, generating = run(running, backend, RowRequest(TEXTS[0]), RowRequest(TEXTS[1], generate=5))
    finally:
        running.close()
    for text, result in zip(TEXTS, results, strict=False):
        np.testing.assert_allclose(result.mean, mean_hidden(model, text), rtol=0, atol=1e-5)
    np.testing.assert_array_equal([result.mean for result in results], read_features(FOLDED, TEXTS[:12], "mean"))
    assert plain.mean is generating.mean is None


class Steps(Observer):
    """Counts steps, and those of every row."""

    def __init__(self) -> None:
        self.steps = self.row_steps = 0

    def block(self, seconds: float, steps: Sequence[int], read: int, generated: int) -> None:
        self.steps += steps[0]
        self.row_steps += sum(steps)


@pytest.fixture
def counted() -> Iterator[tuple[Engine, Steps]]:
    """An engine as the fixture `engine`, and what it reports."""
    steps = Steps()
    running = Engine(max_rows=16, block_steps=8, observer=steps)
    running.start()
    yield running, steps
    running.close()


def test_rows_of_many_jobs_share_steps(counted: tuple[Engine, Steps], backend: TorchBackend) -> None:
    """Two jobs posted at once: the model must see the rows of both in one step."""
    engine, made = counted
    first = engine.submit(backend, [RowRequest(b"x" * 2000)], threading.Event())
    second = engine.submit(backend, [RowRequest(b"y" * 2000)], threading.Event())
    for row in first + second:
        row.done.result(60)
    assert made.row_steps == 4000
    assert made.steps < 4000 * 0.75


@settings(max_examples=examples(20), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 59), st.integers(0, 30), st.integers(0, 100)), min_size=1, max_size=12))
def test_reading_and_generating_rows_do_not_disturb_each_other(rows: list[tuple[int, int, int]]) -> None:
    engine, backend = Engine(max_rows=5, block_steps=4), TorchBackend(FOLDED, max_rows=5)
    engine.start()
    requests = [RowRequest(TEXTS[text], generate=n, sampling=Sampling(seed=seed)) for text, n, seed in rows]
    try:
        together = run(engine, backend, *requests)
        for request, result in zip(requests, together, strict=True):
            (alone,) = run(engine, backend, request)
            assert alone.text == result.text
            assert result.generated == request.generate
            np.testing.assert_allclose(alone.cell, result.cell, atol=1e-5)
    finally:
        engine.close()


class Recording(TorchBackend):
    """Remembers which slots ran in each block, which waits for `go`. A step of n rows is said to take n seconds."""

    def __init__(self) -> None:
        super().__init__(FOLDED, max_rows=32)
        self.blocks: list[list[int]] = []
        self.interrupts = 0
        self.go = threading.Event()
        self.go.set()

    def step_seconds(self, rows: int) -> float:
        return float(rows)

    def run(self, block: list[BlockRow], interrupted: Callable[[], bool] = bool) -> list[BlockRowResult]:
        self.blocks.append(sorted(row.slot for row in block))
        self.go.wait(180)
        results = super().run(block, interrupted)
        self.interrupts += results[0].steps < block[0].steps
        return results


def test_bulk_rows_take_turns_beside_interactive_ones(engine: Engine) -> None:
    backend = Recording()
    # Different texts: a common prefix would be read by one row for all.
    texts = [bytes([number]) * 4000 for number in range(16)]
    bulk = engine.submit(backend, [RowRequest(text, priority="bulk") for text in texts], threading.Event())
    wait_until(lambda: len(backend.blocks) > 0, what="the bulk rows' start")
    begun = len(backend.blocks)
    rows = engine.submit(backend, [RowRequest(b"i" * 400), RowRequest(b"j" * 400)], threading.Event())
    for row in rows:
        row.done.result(60)
    shared = [block for block in backend.blocks[begun:] if len(block) == 4]  # two rows more double the time of two
    assert len(shared) >= 400 // BLOCK_STEPS
    turns = [sum(slot in block for block in shared) for slot in range(16)]
    assert max(turns) - min(turns) <= 1
    cells = [row.done.result(60).cell for row in bulk]  # only then may another thread use the model
    np.testing.assert_allclose(cells, read_features(FOLDED, texts), atol=1e-5)
    assert len(backend.blocks[-4]) == 16  # alone again, all of them run


def test_a_long_bulk_row_runs_beside_interactive_ones_while_short_bulk_rows_keep_coming(engine: Engine) -> None:
    backend, stopped = Recording(), threading.Event()
    engine.submit(backend, [RowRequest(b"i", generate=10**9)], stopped)  # leaves one bulk row room in a block
    (long,) = engine.submit(backend, [RowRequest(b"l" * 400, priority="bulk")], threading.Event())
    wait_until(lambda: any(len(block) == 2 for block in backend.blocks), what="the long row's start")

    def submit_short(number: int = 0) -> None:
        if not stopped.is_set():
            text = number.to_bytes(4)
            (row,) = engine.submit(backend, [RowRequest(text, priority="bulk")], stopped)
            row.done.add_done_callback(lambda _: submit_short(number + 1))

    submit_short()
    assert long.done.result(30).cell.shape == (48,)
    stopped.set()


def test_an_interactive_row_ends_a_block_of_bulk_rows() -> None:
    engine, backend = Engine(max_rows=4, block_steps=10**6), Recording()
    engine.start()
    try:
        (bulk,) = engine.submit(backend, [RowRequest(b"b" * 10**6, priority="bulk")], threading.Event())
        wait_until(lambda: len(backend.blocks) == 1, what="the bulk row's start")
        (row,) = engine.submit(backend, [RowRequest(b"i")], threading.Event())
        row.done.result(60)
        assert not bulk.done.done()
        assert backend.interrupts == 1
    finally:
        engine.close()


def test_a_bulk_row_that_an_interactive_row_follows_runs_as_one(engine: Engine) -> None:
    """Otherwise a request that somebody waits for would depend on the turns of one that nobody waits for."""
    backend = Recording()
    text = b"the common prefix, " * 100  # its last prefix but one ends 108 bytes, 14 blocks, before its end
    run(engine, backend, RowRequest(text + b"seen"))
    begun = len(backend.blocks)
    backend.go.clear()  # until all are there
    first = engine.submit(backend, [RowRequest(text[:-1] + b"b", priority="bulk")], threading.Event())
    wait_until(lambda: len(backend.blocks) > begun, what="the bulk row's start")
    texts = [bytes([number]) * 1000 for number in range(15)]
    others = engine.submit(backend, [RowRequest(text, priority="bulk") for text in texts], threading.Event())
    (row,) = engine.submit(backend, [RowRequest(text[:-1] + b"i")], threading.Event())
    backend.go.set()
    row.done.result(60)
    begun = len(backend.blocks)
    for other in first + others:
        assert other.done.result(60).cell.shape == (48,)
    alone = [block for block in backend.blocks[:begun] if len(block) == 1]
    beside = [block for block in backend.blocks[:begun] if len(block) == 2]
    assert len(alone) >= len(text) // BLOCK_STEPS  # the row before
    assert len(beside) >= 100


def test_clamps_hold_and_show_in_traces(engine: Engine, backend: TorchBackend) -> None:
    free, held = run(
        engine,
        backend,
        RowRequest(TEXTS[0], traced=(2, 9)),
        RowRequest(TEXTS[0], traced=(2, 9), clamps={9: 0.75}),
    )
    assert free.trace.shape == held.trace.shape == (len(TEXTS[0]), 2)
    assert (held.trace[:, 1] == 0.75).all()
    assert not np.allclose(free.trace[:, 0], held.trace[:, 0])
    np.testing.assert_array_equal(free.trace[-1], free.cell[[2, 9]])


def test_cancelling_ends_rows_that_run_and_rows_that_wait(engine: Engine, backend: TorchBackend) -> None:
    cancelled = threading.Event()
    rows = engine.submit(backend, [RowRequest(b"a", generate=10**9)] * 40, cancelled)
    other = engine.submit(backend, [RowRequest(b"b" * 100)], threading.Event())
    wait_until(lambda: engine.rows_active == 16, what="a full engine")
    cancelled.set()
    for row in rows:
        with pytest.raises(RowCancelled):
            row.done.result(60)
    assert other[0].done.result(60).cell.shape == (48,)
    wait_until(lambda: engine.rows_active == 0, what="an idle engine")


def test_a_deadline_that_has_passed_ends_a_row_wherever_it_is(engine: Engine, backend: TorchBackend) -> None:
    requests = [RowRequest(b"a", generate=10**9, deadline=time.monotonic() + 0.5)] * 20
    rows = engine.submit(backend, [*requests, RowRequest(b"late", deadline=time.monotonic() - 1)], threading.Event())
    for row in rows:
        with pytest.raises(DeadlineExceeded, match="deadline"):
            row.done.result(60)


def test_rows_that_are_dead_when_they_arrive_never_cost_a_step(
    counted: tuple[Engine, Steps], backend: TorchBackend
) -> None:
    engine, made = counted
    cancelled = threading.Event()
    cancelled.set()
    for _ in range(20):  # also between two looks through the rows that wait
        (row,) = engine.submit(backend, [RowRequest(b"a")], cancelled)
        with pytest.raises(RowCancelled):
            row.done.result(60)
        (row,) = engine.submit(backend, [RowRequest(b"a", deadline=time.monotonic() - 1)], threading.Event())
        with pytest.raises(DeadlineExceeded):
            row.done.result(60)
    assert made.steps == 0
    assert engine.rows_active == 0


def test_a_block_that_fails_fails_its_rows_and_the_engine_goes_on(engine: Engine, backend: TorchBackend) -> None:
    class Broken(TorchBackend):
        def run(self, block: list[BlockRow], interrupted: Callable[[], bool] = bool) -> list[BlockRowResult]:
            raise RuntimeError("out of memory")

    (row,) = engine.submit(Broken(FOLDED, 4), [RowRequest(b"a")], threading.Event())
    with pytest.raises(EngineFailure, match="RuntimeError: out of memory"):
        row.done.result(60)
    assert engine.alive
    assert run(engine, backend, RowRequest(b"a"))[0].cell.shape == (48,)


def test_a_block_that_hangs_shows_in_the_engines_age(engine: Engine, backend: TorchBackend) -> None:
    release = threading.Event()

    class Hanging(TorchBackend):
        def run(self, block: list[BlockRow], interrupted: Callable[[], bool] = bool) -> list[BlockRowResult]:
            release.wait(180)
            return super().run(block, interrupted)

    (row,) = engine.submit(Hanging(FOLDED, 4), [RowRequest(b"a")], threading.Event())
    wait_until(lambda: engine.age_s > 1.0, what="the engine's silence")  # an idle loop goes round twice a second
    assert engine.alive
    release.set()
    row.done.result(60)
    wait_until(lambda: engine.age_s < 1.0, what="the engine's next turn")


def test_rows_finish_on_the_model_they_began_with(engine: Engine, backend: TorchBackend) -> None:
    newer = FoldedModel(tiny_model(seed=1), dtype=torch.float32)
    requests = [RowRequest(text, mean=True) for text in TEXTS[:10]]
    old_rows = engine.submit(backend, requests, threading.Event())
    new_rows = engine.submit(TorchBackend(newer, 16), requests, threading.Event())
    for model, rows in ((FOLDED, old_rows), (newer, new_rows)):
        results = [row.done.result(60) for row in rows]
        np.testing.assert_allclose([result.cell for result in results], read_features(model, TEXTS[:10]), atol=1e-5)
        np.testing.assert_array_equal([result.mean for result in results], read_features(model, TEXTS[:10], "mean"))


def test_closing_fails_what_is_left_and_refuses_what_comes(backend: TorchBackend) -> None:
    engine = Engine(max_rows=2)
    engine.start()
    rows = engine.submit(backend, [RowRequest(b"a", generate=10**9)] * 4, threading.Event())
    wait_until(lambda: engine.rows_active == 2, what="a full engine")
    engine.close()
    for row in rows:
        with pytest.raises(EngineFailure, match="shut down"):
            row.done.result(1)
    with pytest.raises(EngineFailure, match="shutting down"):
        engine.submit(backend, [RowRequest(b"a")], threading.Event())
    assert not engine.alive


def test_closing_ends_the_block_that_runs() -> None:
    engine, backend = Engine(max_rows=4, block_steps=10**6), Recording()
    engine.start()
    (row,) = engine.submit(backend, [RowRequest(b"a" * 10**6)], threading.Event())
    wait_until(lambda: len(backend.blocks) == 1, what="the row's start")
    engine.close()
    assert backend.interrupts == 1
    with pytest.raises(EngineFailure, match="shut down"):
        row.done.result(1)


def test_a_row_without_bytes_is_refused(engine: Engine, backend: TorchBackend) -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        engine.submit(backend, [RowRequest(b"")], threading.Event())


def test_the_mean_of_a_row_that_generates_is_refused(engine: Engine, backend: TorchBackend) -> None:
    with pytest.raises(ValueError, match="generate nothing"):
        engine.submit(backend, [RowRequest(b"a", generate=1, mean=True)], threading.Event())


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(engine: Engine) -> None:
    on_device = TorchBackend(FoldedModel(tiny_model(), "cuda", torch.float32), max_rows=16)
    requests = [RowRequest(text, generate=10, sampling=Sampling(seed=2), traced=(1,)) for text in TEXTS[:20]]
    on_cpu = run(engine, TorchBackend(FOLDED, 16), *requests)
    for here, there in zip(on_cpu, run(engine, on_device, *requests), strict=True):
        assert here.text == there.text
        np.testing.assert_allclose(here.cell, there.cell, atol=1e-4)
        np.testing.assert_allclose(here.trace, there.trace, atol=1e-4)
