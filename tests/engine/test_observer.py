"""What an engine reports while it runs."""

import threading
from collections.abc import Sequence

import pytest
import torch

from engine.engine import Engine
from engine.folded import FoldedModel
from engine.observer import Observer, PrefixLookup, RowEnd
from engine.rows import RowCancelled, RowRequest
from engine.torch_backend import TorchBackend
from tests.conftest import tiny_model, wait_until


class Recording(Observer):
    def __init__(self) -> None:
        self.most_active = self.most_waiting = self.read = self.generated = self.spared = 0
        self.seconds: list[float] = []
        self.ends: list[RowEnd] = []
        self.lookups: list[PrefixLookup] = []

    def rows(self, active: int, waiting: int) -> None:
        self.most_active, self.most_waiting = max(active, self.most_active), max(waiting, self.most_waiting)

    def block(self, seconds: float, steps: Sequence[int], read: int, generated: int) -> None:
        assert list(steps) == sorted(steps, reverse=True)
        self.seconds.append(seconds)
        self.read += read
        self.generated += generated

    def row_ended(self, how: RowEnd) -> None:
        self.ends.append(how)

    def prefix_lookup(self, outcome: PrefixLookup) -> None:
        self.lookups.append(outcome)

    def prefix_spared(self, bytes_: int) -> None:
        self.spared += bytes_


def test_an_engine_reports_rows_blocks_bytes_and_prefixes() -> None:
    recording, backend = Recording(), TorchBackend(FoldedModel(tiny_model(), dtype=torch.float32), max_rows=8)
    engine = Engine(max_rows=4, block_steps=8, observer=recording)
    engine.start()
    try:
        requests = [RowRequest(b"prompt" * 100, generate=10)] * 6
        for row in engine.submit(backend, requests, threading.Event()):
            row.done.result(60)
        cancelled = threading.Event()
        (endless,) = engine.submit(backend, [RowRequest(b"a", generate=10**9)], cancelled)
        wait_until(lambda: engine.rows_active == 1, what="the endless row's start")
        cancelled.set()
        with pytest.raises(RowCancelled):
            endless.done.result(60)
    finally:
        engine.close()
    assert (recording.most_active, recording.most_waiting) == (4, 2)
    assert recording.ends == ["done"] * 6 + ["cancelled"]
    assert recording.lookups == ["miss", *["shared"] * 3, *["hit"] * 2]  # the endless row's text has no prefix to share
    assert recording.spared == 5 * 599
    assert recording.read == 600 + 5 + 1
    assert recording.generated >= 60
    assert all(seconds > 0 for seconds in recording.seconds)
