"""`run_rows`: rows on an engine of their own, which lives as long as they do."""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from engine.engine import Engine
from engine.folded import FoldedModel
from engine.rows import RowRequest, RowResult
from engine.serving import backend_for
from engine.waiting import wait_for
from evaluation.features import Progress

_ROWS = 256  # side by side; more wait until one of them has ended


def run_rows(model: FoldedModel, requests: Sequence[RowRequest], progress: Progress | None = None) -> list[RowResult]:
    """The result of each request, in the order of `requests`; `progress` advances by one when a row has ended.

    Raises EngineFailure where the device cannot run a row.
    """
    progress = progress or Progress()
    engine = Engine(_ROWS)
    engine.start()
    try:
        rows = engine.submit(backend_for(model, 2 * _ROWS), requests, threading.Event())
        ended: queue.SimpleQueue[Future[RowResult]] = queue.SimpleQueue()
        for row in rows:
            row.done.add_done_callback(ended.put)
        for _ in rows:
            wait_for(engine, ended).result()  # a row that failed ends all
            progress.advance(1)
        return [row.done.result() for row in rows]
    finally:
        engine.close()
