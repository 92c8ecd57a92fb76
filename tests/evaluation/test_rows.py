import threading

import numpy as np
import pytest

from engine.observer import Observer
from engine.reading import read_texts
from engine.rows import EngineFailure, RowRequest
from engine.torch_backend import TorchBackend
from evaluation import rows
from evaluation.features import Progress, Reader
from evaluation.rows import run_rows
from tests.support.carrier import labelled


def test_results_are_in_the_order_of_requests_and_each_is_counted(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where more rows are asked for than run side by side."""
    monkeypatch.setattr(rows, "_ROWS", 4)
    texts = [text.encode() * (1 + number % 3) for number, text in enumerate(labelled(11, 1).texts)]
    advanced: list[int] = []
    found = run_rows(reader.model, [RowRequest(text) for text in texts], Progress(advance=advanced.append))
    assert np.array_equal(np.stack([row.cell for row in found]), read_texts(reader.model, texts)[0])
    assert advanced == [1] * len(texts)


def test_a_row_that_fails_ends_all_and_leaves_no_engine_behind(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such device")

    monkeypatch.setattr(TorchBackend, "run", fail)
    with pytest.raises(EngineFailure, match="no such device"):
        run_rows(reader.model, [RowRequest(b"a"), RowRequest(b"b")])
    assert [thread.name for thread in threading.enumerate() if thread.name == "engine"] == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_dies_ends_all(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault outside the backend")

    monkeypatch.setattr(Observer, "block", fail)
    with pytest.raises(EngineFailure, match="thread has died"):
        run_rows(reader.model, [RowRequest(b"a"), RowRequest(b"b")])


def test_nothing_is_asked_for(reader: Reader) -> None:
    assert run_rows(reader.model, []) == []
