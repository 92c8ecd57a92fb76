"""Scores: those of the plain loop, the same beside any rows and after any prefix, and of the right bytes."""

import math
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from engine.backend import BlockRow
from engine.engine import Engine
from engine.folded import FoldedModel
from engine.graph_backend import GraphBackend
from engine.observer import Observer
from engine.reading import SCORED, read_texts
from engine.rows import RowRequest, RowResult, Sampling
from engine.scored_bytes import MOST_BYTES, scored
from engine.torch_backend import TorchBackend
from model.network import cells
from tests.conftest import tiny_model

FOLDED = FoldedModel(tiny_model(), dtype=torch.float32)
_random = np.random.default_rng(0)
TEXTS = [_random.integers(0, 256, size, dtype=np.uint8).tobytes() for size in (5, 16, 17, 63, 64, 130, 700)]


def by_hand(text: bytes) -> dict[int, float]:
    """-log2 of the probability of each byte, by the reference step in float64."""
    exact = tiny_model().double()
    state, found = exact.zero_state(1), {}
    with torch.no_grad():
        weights = exact.cell.weights(exact.embedding)
        for place, byte in enumerate(text):
            logits = state.hidden @ exact.output_w + exact.output_b
            found[place] = -float(torch.log_softmax(logits, -1)[0, byte]) / math.log(2)
            state = cells.step(exact.cell.name, weights, torch.tensor([byte]), state)
    return found


def mean_bits(text: bytes) -> float:
    found = by_hand(text)
    return float(np.mean([found[place] for place in scored(0, len(text))]))


def run(engine: Engine, *requests: RowRequest) -> list[RowResult]:
    rows = engine.submit(TorchBackend(FOLDED, 32), requests, threading.Event())
    return [row.done.result(60) for row in rows]


def part(backend: TorchBackend, text: bytes, steps: int) -> BlockRow:
    """The first `steps` bytes of a text, scored."""
    read = np.frombuffer(text, dtype=np.uint8)[:steps]
    return BlockRow(backend.open(), steps, read, steps, 0, Sampling(), {}, (), scored(0, steps))


def test_every_second_byte_up_to_a_limit() -> None:
    assert scored(0, 10).tolist() == [3, 5, 7, 9]
    assert scored(0, 3).tolist() == scored(0, 0).tolist() == []
    assert scored(4, 8).tolist() == [5, 7]
    assert scored(0, 10**6)[-1] == MOST_BYTES - 1
    assert scored(MOST_BYTES, 10**6).tolist() == []
    assert [*scored(0, 100), *scored(100, 117), *scored(117, 10**4)] == scored(0, 10**4).tolist()


@pytest.mark.parametrize("block_steps", [1, 7, 16])
def test_a_rows_bits_per_byte_are_those_of_the_plain_loop(block_steps: int) -> None:
    engine = Engine(max_rows=4, block_steps=block_steps)
    engine.start()
    try:
        *results, unasked = run(engine, *[RowRequest(text, scored=True) for text in TEXTS], RowRequest(TEXTS[0]))
    finally:
        engine.close()
    for text, result in zip(TEXTS, results, strict=True):
        assert result.bits_per_byte == pytest.approx(mean_bits(text), abs=1e-4)
    assert unasked.bits_per_byte is None


def test_a_prefix_that_was_taken_over_is_scored_too() -> None:
    """And rows that score nothing share no prefix with rows that do."""
    spared = []

    class Seen(Observer):
        def prefix_spared(self, bytes_: int) -> None:
            spared.append(bytes_)

    engine, backend = Engine(max_rows=8, observer=Seen()), TorchBackend(FOLDED, 16)
    engine.start()
    template = _random.integers(0, 256, 200, dtype=np.uint8).tobytes()
    texts = [template + bytes([number]) * 40 for number in range(6)]
    try:
        for text in texts:
            for asked in (False, True):
                (row,) = engine.submit(backend, [RowRequest(text, scored=asked)], threading.Event())
                found = row.done.result(60).bits_per_byte
                assert found == (pytest.approx(mean_bits(text), abs=1e-4) if asked else None)
        at_once = engine.submit(backend, [RowRequest(text + b"!", scored=True) for text in texts], threading.Event())
        for text, row in zip(texts, at_once, strict=True):
            assert row.done.result(60).bits_per_byte == pytest.approx(mean_bits(text + b"!"), abs=1e-4)
    finally:
        engine.close()
    assert len(spared) > 6


def test_neighbours_change_no_score() -> None:
    def scores(*sizes: int) -> list[float]:
        backend = TorchBackend(FOLDED, 16)
        block = [part(backend, TEXTS[3], size) for size in sizes]
        backend.run(block)
        return [backend.bits(row.slot) for row in block]

    assert scores(63, 50, 40, 9, 5)[2] == pytest.approx(scores(40)[0], abs=1e-4)


def test_a_block_that_is_interrupted_has_scored_what_it_has_read() -> None:
    backend, looks = TorchBackend(FOLDED, 4), iter([False] * 9 + [True])
    interrupted: Callable[[], bool] = looks.__next__
    row = part(backend, TEXTS[3], 63)
    (result,) = backend.run([row], interrupted)
    assert result.steps == 10
    exact = by_hand(TEXTS[3])
    assert backend.bits(row.slot) == pytest.approx(sum(exact[place] for place in (3, 5, 7, 9)), abs=1e-4)
    backend.close(row.slot)
    assert backend.bits(backend.open()) == 0.0


@pytest.mark.parametrize("backend", [TorchBackend(FOLDED, 4), GraphBackend(FOLDED, 4)], ids=["torch", "graph"])
def test_a_block_that_fails_while_it_is_scored_has_moved_no_row(
    backend: TorchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = part(backend, TEXTS[3], 20)
    backend.run([row])
    before = backend.cell(row.slot), backend.bits(row.slot), backend.state(row.slot).hidden.clone()

    def fails(*_: object) -> torch.Tensor:
        raise RuntimeError("not enough memory")

    with monkeypatch.context() as patched:
        for module in ("scoring", "block"):
            patched.setattr(f"engine.{module}.bits", fails)
        with pytest.raises(RuntimeError, match="not enough memory"):
            backend.run([row])
    np.testing.assert_array_equal(backend.cell(row.slot), before[0])
    assert backend.bits(row.slot) == before[1]
    assert torch.equal(backend.state(row.slot).hidden, before[2])


def test_texts_that_are_read_at_once() -> None:
    found = np.empty((len(TEXTS), len(SCORED)), dtype=np.float32)
    cells, means = read_texts(FOLDED, TEXTS, rows=3, scores=found)
    for ours, plain in zip((cells, means), read_texts(FOLDED, TEXTS, rows=3), strict=True):
        np.testing.assert_array_equal(ours, plain)
    for text, row in zip(TEXTS, found, strict=True):
        exact = by_hand(text[:MOST_BYTES])
        expected = [exact[place] for place in scored(0, len(text))]
        np.testing.assert_allclose(row[: len(expected)], expected, rtol=0, atol=1e-4)
        assert np.isnan(row[len(expected) :]).all()
