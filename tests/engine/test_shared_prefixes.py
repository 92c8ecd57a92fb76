"""A common prefix is read once, whatever happens to the row that reads it, and nothing else changes."""

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.jobs import Priority
from engine import shared_prefixes
from engine.backend import BlockRow, BlockRowResult
from engine.engine import Engine
from engine.folded import FoldedModel
from engine.observer import Observer
from engine.rows import DeadlineExceeded, EngineFailure, Row, RowCancelled, RowRequest, RowResult, Sampling
from engine.shared_prefixes import SharedPrefixes
from engine.torch_backend import TorchBackend
from tests.conftest import BLOCK_STEPS, tiny_model, wait_until
from tests.support.examples import examples

FOLDED = FoldedModel(tiny_model(), dtype=torch.float32)
_random = np.random.default_rng(0)
STATE_BYTES = 48 * 8 + 8 + 1024  # cell and hidden in float32, the sum of scores, and what the cache counts beside them
WITH_SUM_BYTES = STATE_BYTES + 48 * 8  # and a sum in float64


def text(size: int) -> bytes:
    return _random.integers(0, 256, size, dtype=np.uint8).tobytes()


class Counting(TorchBackend):
    """Counts the bytes it reads. When `gated`, it announces each block by `asks` and waits for `go`."""

    def __init__(self, max_rows: int = 16) -> None:
        super().__init__(FOLDED, max_rows)
        self.bytes_read = 0
        self.gated = False
        self.asks, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.failures = 0

    def run(self, block: list[BlockRow], interrupted: Callable[[], bool] = bool) -> list[BlockRowResult]:
        if self.gated:
            self.asks.release()
            self.go.acquire()
        if self.failures:
            self.failures -= 1
            raise RuntimeError("out of memory")
        assert all(row.steps > 0 for row in block)
        results = super().run(block, interrupted)
        self.bytes_read += sum(min(len(row.text), made.steps) for row, made in zip(block, results, strict=True))
        return results


@pytest.fixture
def backend() -> Counting:
    return Counting()


def run(engine: Engine, backend: Counting, *requests: RowRequest) -> tuple[list[RowResult], int]:
    """The results, and how many bytes were read for them."""
    before = backend.bytes_read
    rows = engine.submit(backend, requests, threading.Event())
    return [row.done.result(60) for row in rows], backend.bytes_read - before


def without_cache(*requests: RowRequest) -> list[RowResult]:
    engine = Engine(max_rows=16, block_steps=8, prefix_cache_mb=0)
    engine.start()
    try:
        backend = Counting()
        results, read = run(engine, backend, *requests)
        assert read == sum(len(request.text) for request in requests)
        return results
    finally:
        engine.close()


def assert_alike(results: list[RowResult], expected: list[RowResult]) -> None:
    for one, other in zip(results, expected, strict=True):
        assert (one.text, one.generated, one.finish_reason) == (other.text, other.generated, other.finish_reason)
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-3)
        np.testing.assert_allclose(one.cell, other.cell, atol=1e-5)
        np.testing.assert_allclose(one.trace, other.trace, atol=1e-5)
        assert (one.mean is None) == (other.mean is None)
        if one.mean is not None and other.mean is not None:
            np.testing.assert_array_equal(one.mean, other.mean)


def samples(prompt: bytes, count: int, **wishes: object) -> list[RowRequest]:
    return [RowRequest(prompt, generate=20, sampling=Sampling(seed=n), **wishes) for n in range(count)]  # type: ignore[arg-type]


def test_eight_samples_read_their_prompt_once(engine: Engine, backend: Counting) -> None:
    requests = samples(text(500), 8)
    results, read = run(engine, backend, *requests)
    generated_and_read = 500 + 7  # every sample reads the last byte, with which its first draw comes
    assert read == generated_and_read
    assert len({result.text for result in results}) == 8
    assert_alike(results, without_cache(*requests))


def test_the_same_prompt_later_starts_at_its_end_and_gives_the_same_to_the_bit(
    engine: Engine, backend: Counting
) -> None:
    (request,) = samples(text(300), 1)
    (first,), _ = run(engine, backend, request)
    (second,), read = run(engine, backend, request)
    (never,) = without_cache(request)
    assert read == 1
    for other in (second, never):
        assert (first.text, first.log_probability) == (other.text, other.log_probability)
        np.testing.assert_array_equal(first.cell, other.cell)


def test_a_conversation_that_grows_is_read_from_where_it_grew(engine: Engine, backend: Counting) -> None:
    conversation = text(700)
    run(engine, backend, *samples(conversation, 1))
    longer = samples(conversation + text(100), 2)
    results, read = run(engine, backend, *longer)
    assert read == 800 - 640 + 1  # 640 is the last mark before byte 700
    assert_alike(results, without_cache(*longer))


def test_a_prefix_is_kept_when_it_comes_for_the_second_time(engine: Engine, backend: Counting) -> None:
    template = text(300)
    requests = [RowRequest(template + text(50)) for _ in range(4)]
    reads = [run(engine, backend, request)[1] for request in requests]
    assert reads == [350, 350, 350 - 256, 350 - 256]
    together = [RowRequest(template[::-1] + text(50)) for _ in range(10)]
    results, read = run(engine, backend, *together)
    assert read == 2 * 350 + 8 * (350 - 256)
    assert_alike(results, without_cache(*together))


def test_a_mean_counts_what_another_row_has_read_to_the_same_bit(engine: Engine, backend: Counting) -> None:
    template = text(300)
    requests = [RowRequest(template + text(50), mean=True) for _ in range(10)]
    together, read = run(engine, backend, *requests)
    assert read == 2 * 350 + 8 * (350 - 256)
    later, read = run(engine, backend, requests[0])  # its end was seen, and its prefix kept
    assert read == 350 - 256
    again, read = run(engine, backend, requests[0])
    assert read == 0
    assert_alike([*together, *later, *again], without_cache(*requests, requests[0], requests[0]))


def test_rows_with_a_mean_share_with_each_other_alone(engine: Engine, backend: Counting) -> None:
    plain = RowRequest(text(200))
    wanting = RowRequest(plain.text, mean=True)
    results, reads = zip(*(run(engine, backend, request) for request in [plain, wanting] * 3), strict=True)
    assert reads == (200, 200, 200, 200, 0, 0)
    assert_alike([result for (result,) in results], without_cache(*[plain, wanting] * 3))


def test_the_very_same_text_is_not_read_a_third_time(engine: Engine, backend: Counting) -> None:
    request = RowRequest(text(200))
    results, reads = zip(*(run(engine, backend, request) for _ in range(3)), strict=True)
    assert reads == (200, 200, 0)
    np.testing.assert_array_equal(results[0][0].cell, results[2][0].cell)
    together = [RowRequest(text(100)[::-1])] * 5
    five, read = run(engine, backend, *together)
    assert read == 2 * 100
    assert_alike(five, without_cache(*together))


def test_what_was_seen_is_forgotten_when_much_has_come_since(
    engine: Engine, backend: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_prefixes, "_SEEN_AT_MOST", 3)
    request = RowRequest(text(40))
    between = [[RowRequest(text(40)) for _ in range(count)] for count in (3, 2, 0)]
    reads = []
    for others in between:
        reads.append(run(engine, backend, request)[1])
        run(engine, backend, *others)
    assert [*reads, run(engine, backend, request)[1]] == [40, 40, 40, 0]


def test_clamped_rows_share_with_rows_of_the_same_clamps_alone(engine: Engine, backend: Counting) -> None:
    prompt = text(200)
    wishes: list[dict[int, float]] = [{}, {5: 0.5}, {5: -0.5}]
    requests = [request for clamps in wishes for request in samples(prompt, 2, clamps=clamps)]
    results, read = run(engine, backend, *requests)
    assert read == 3 * 201
    assert_alike(results, without_cache(*requests))


def test_traces_show_every_byte(engine: Engine, backend: Counting) -> None:
    request = RowRequest(text(200), traced=(2, 9))
    plain = RowRequest(request.text)
    run(engine, backend, plain)
    run(engine, backend, plain)
    (traced,), read = run(engine, backend, request)
    assert (read, traced.trace.shape) == (200, (200, 2))
    np.testing.assert_allclose(traced.trace, without_cache(request)[0].trace, atol=1e-5)


def typed(content: bytes, fresh: int) -> RowRequest:
    """A text of which the last `fresh` bytes are new, and whose state is kept at its end and a byte before."""
    size = len(content)
    return RowRequest(content, traced=(2, 9), traced_from=size - fresh, kept=(size - 1, size))


def test_a_trace_of_a_text_that_grows_reads_what_is_new(engine: Engine, backend: Counting) -> None:
    content = text(200)
    (whole,), read = run(engine, backend, typed(content, 200))
    assert (read, whole.trace.shape) == (200, (200, 2))
    # One byte more, one that replaces the last one, and the same text once more, of which nothing is new.
    for longer, fresh in ((content + b"a", 1), (content[:-1] + b"bc", 2), (content, 0)):
        (traced,), read = run(engine, backend, typed(longer, fresh))
        assert (read, traced.trace.shape) == (fresh, (fresh, 2))
        assert_alike([traced], without_cache(typed(longer, fresh)))
    # What was typed in its middle was kept nowhere, and then is, if the request says so.
    middle = replace(typed(content, 150), kept=(50, 200))
    assert run(engine, backend, middle)[1] == 200
    (traced,), read = run(engine, backend, middle)
    assert (read, traced.trace.shape) == (150, (150, 2))
    np.testing.assert_allclose(traced.trace, whole.trace[50:], atol=1e-5)


def test_when_the_row_that_reads_is_cancelled_a_mean_is_read_on(engine: Engine, backend: Counting) -> None:
    request = RowRequest(text(1000), mean=True)
    run(engine, backend, request)
    backend.gated = True
    rows = engine.submit(backend, [request], threading.Event())
    assert backend.asks.acquire(timeout=180)
    rows += engine.submit(backend, [request, request], threading.Event())
    backend.go.release()
    assert backend.asks.acquire(timeout=180)
    assert engine.rows_active == 3
    backend.gated = False
    rows[0].cancelled.set()
    backend.go.release()
    with pytest.raises(RowCancelled):
        rows[0].done.result(60)
    assert_alike([row.done.result(60) for row in rows[1:]], without_cache(request, request))
    assert backend.bytes_read == 2 * 1000  # before, and now: the second row went on where the first one stood


def _three_of_a_kind(engine: Engine, backend: Counting) -> list[Row]:
    """Three jobs with the same prompt; the engine stands still amidst the reading by the first.

    The first 448 bytes were read before; the first reads the other 552 for all.
    """
    prompt = text(1000)
    run(engine, backend, RowRequest(prompt[:500], generate=1))
    backend.bytes_read = 0
    backend.gated = True
    rows = engine.submit(backend, [RowRequest(prompt, generate=5)], threading.Event())
    assert backend.asks.acquire(timeout=180)
    for _ in range(2):
        rows += engine.submit(backend, [RowRequest(prompt, generate=5)], threading.Event())
    backend.go.release()
    assert backend.asks.acquire(timeout=180)
    assert engine.rows_active == 3
    assert backend.bytes_read == BLOCK_STEPS
    backend.gated = False
    return rows


@pytest.mark.parametrize("ending", ["cancelled", "late", "failed"])
def test_when_the_row_that_reads_ends_another_reads_on(engine: Engine, backend: Counting, ending: str) -> None:
    rows = _three_of_a_kind(engine, backend)
    match ending:
        case "cancelled":
            rows[0].cancelled.set()
            error: type[Exception] = RowCancelled
        case "late":
            rows[0].request = replace(rows[0].request, deadline=time.monotonic())
            error = DeadlineExceeded
        case _:
            backend.failures = 1
            error = EngineFailure
    backend.go.release()
    with pytest.raises(error):
        rows[0].done.result(60)
    assert_alike([row.done.result(60) for row in rows[1:]], without_cache(rows[1].request, rows[2].request))
    # By the second row alone, from where the first one stood unless that is not certain; the third reads the last byte.
    assert backend.bytes_read == 552 + 1 + (BLOCK_STEPS if ending == "failed" else 0)


def test_a_row_leads_an_interactive_one_that_waits_for_a_row_that_waits_for_it() -> None:
    backend, shared = Counting(), SharedPrefixes(2**20, Observer())

    def join(content: bytes, priority: Priority = "bulk") -> Row:
        request = RowRequest(content, priority=priority)
        row = Row(request, threading.Event(), prefixes=request.prefixes())
        row.slot = backend.open()
        shared.join(backend, row)
        return row

    one, two = text(200), text(200)
    join(one + two)  # so that its prefixes are seen
    first, second = join(one + text(50)), join(one + two + text(50))
    assert not shared.leads_interactive(first)
    join(one + two + text(60), "interactive")
    assert second.follows is not None
    assert shared.leads_interactive(second)
    assert shared.leads_interactive(first)


def test_a_row_that_waits_for_another_can_be_cancelled(engine: Engine, backend: Counting) -> None:
    rows = _three_of_a_kind(engine, backend)
    rows[1].cancelled.set()
    (rows[1],), gone = (
        engine.submit(backend, [RowRequest(text(541))], threading.Event()),
        rows[1],
    )  # takes its slot, and ends just after the prompt
    backend.go.release()
    with pytest.raises(RowCancelled):
        gone.done.result(60)
    assert_alike([row.done.result(60) for row in rows], without_cache(*[row.request for row in rows]))


class Kept(Observer):
    """What is kept, and what had to go."""

    def __init__(self) -> None:
        self.held = self.evicted = 0

    def prefixes_held(self, bytes_: int) -> None:
        self.held = bytes_

    def prefixes_evicted(self, count: int) -> None:
        self.evicted += count


@pytest.mark.parametrize("mean", [False, True])
def test_what_is_held_is_bounded_and_goes_with_its_model(mean: bool) -> None:
    kept = Kept()
    size = WITH_SUM_BYTES if mean else STATE_BYTES
    engine = Engine(max_rows=4, block_steps=8, prefix_cache_mb=3 * size / 2**20, observer=kept)
    engine.start()
    try:
        backend = Counting(4)
        requests = [RowRequest(text(40), mean=mean) for _ in range(5)]
        for _ in range(2):  # the end of a text is kept when it comes for the second time
            run(engine, backend, *requests)
        wait_until(lambda: kept.held == 3 * size, what="three states")
        assert kept.evicted == 2
        del backend
        gc.collect()
        wait_until(lambda: kept.held == 0, what="the end of the model's states")
    finally:
        engine.close()


ROOT = text(400)
TAILS = [text(80) for _ in range(3)]
one_row = st.tuples(
    st.sampled_from([1, 63, 64, 65, 130, 256, 400]),  # of the common text
    st.integers(0, 2),  # which tail
    st.sampled_from([0, 1, 10]),  # bytes to generate
    st.booleans(),  # cancelled
    st.sampled_from(["interactive", "bulk"]),
    st.sampled_from(["mean", "trace", None]),  # what is wanted of it, unless it generates
)


@settings(max_examples=examples(25), deadline=None)
@given(st.lists(one_row, min_size=2, max_size=12), st.sampled_from([1e-9, 0.003, 64.0]))
def test_any_mixture_of_rows_ends_as_it_would_without(rows: list, prefix_cache_mb: float) -> None:  # type: ignore[type-arg]
    engine, backend = Engine(5, 4, prefix_cache_mb=prefix_cache_mb), Counting(10)
    engine.start()
    requests = []
    for root, tail, n, _, priority, wanted in rows:
        request = RowRequest(ROOT[:root] + TAILS[tail], generate=n, sampling=Sampling(seed=n), priority=priority)
        if n == 0 and wanted == "mean":
            request = replace(request, mean=True)
        if n == 0 and wanted == "trace":
            request = replace(request, traced=(2, 9), traced_from=root, kept=(root, root + 79))
        requests.append(request)
    try:
        events = [threading.Event() for _ in rows]
        submitted = [engine.submit(backend, [r], e)[0] for r, e in zip(requests, events, strict=True)]
        for (*_, cancel, _, _), event in zip(rows, events, strict=True):
            if cancel:
                event.set()
        ended = [row.done.exception(60) for row in submitted]
        wait_until(lambda: engine.rows_active == 0, what="an idle engine")
        results, _ = run(engine, backend, *requests)
    finally:
        engine.close()
    expected = without_cache(*requests)
    assert_alike(results, expected)
    for row, error, alone, (*_, cancel, _, _) in zip(submitted, ended, expected, rows, strict=True):
        assert error is None or (cancel and isinstance(error, RowCancelled))
        if error is None:
            assert_alike([row.done.result()], [alone])
