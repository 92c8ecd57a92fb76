"""Who waits for rows gets what they put, and hears of an engine that dies instead of waiting for ever."""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future

import pytest
import torch

from engine.engine import Engine
from engine.folded import FoldedModel
from engine.observer import Observer
from engine.rows import EngineFailure, RowRequest, RowResult
from engine.torch_backend import TorchBackend
from engine.waiting import wait_for
from tests.conftest import tiny_model

BACKEND = TorchBackend(FoldedModel(tiny_model(), dtype=torch.float32), max_rows=4)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_dies() -> None:
    class Broken(Observer):
        def block(self, seconds: float, steps: Sequence[int], read: int, generated: int) -> None:
            raise RuntimeError("a fault outside the backend")

    engine = Engine(observer=Broken())
    ended: queue.SimpleQueue[Future[RowResult]] = queue.SimpleQueue()
    engine.start()
    (row,) = engine.submit(BACKEND, [RowRequest(b"a")], threading.Event())
    row.done.add_done_callback(ended.put)
    with pytest.raises(EngineFailure, match="thread has died"):
        wait_for(engine, ended)
    assert not row.done.done()  # a worker gives such a row to another one


def test_what_was_put_before_the_engine_ended_is_still_taken() -> None:
    engine = Engine()
    ended: queue.SimpleQueue[Future[RowResult]] = queue.SimpleQueue()
    engine.start()
    (row,) = engine.submit(BACKEND, [RowRequest(b"a", generate=10**9)], threading.Event())
    row.done.add_done_callback(ended.put)
    engine.close()
    assert isinstance(wait_for(engine, ended).exception(0), EngineFailure)
