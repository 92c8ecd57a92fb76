"""`run_rows`: rows on an engine of their own, which lives as long as they do."""

import threading
from collections.abc import Sequence
from concurrent.futures import as_completed

from engine.engine import Engine
from engine.folded import FoldedModel
from engine.rows import RowRequest, RowResult
from engine.serving import backend_for
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
        for done in as_completed([row.done for row in rows]):
            done.result()  # a row that failed ends all
            progress.advance(1)
        return [row.done.result() for row in rows]
    finally:
        engine.close()
