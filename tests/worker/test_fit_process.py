"""A fit in a process of its own gives what it gives here, and can be ended at any moment."""

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract import children
from model.heads.checks import HeadError
from model.heads.cross_validation import fit_cv, fit_unit_cv
from tests.support.decoys import write_decoys
from worker.fit_process import FitProcess, FitProcessError, FitStopped


def features(rows: int = 60, units: int = 20) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, Any]]:
    draw = np.random.default_rng(0)
    labels = np.arange(rows) % 2
    return (draw.normal(size=(rows, units)) + labels[:, None] * (np.arange(units) == 3)).astype(np.float32), labels


def going_on() -> bool:
    return False


@pytest.mark.parametrize("unit_only", [False, True])
def test_it_is_the_same_fit_elsewhere(unit_only: bool) -> None:
    x, y = features()
    with FitProcess(2, unit_only, 1, going_on) as process:
        process.send(x, y)
        fitted = process.result()
    assert fitted == (fit_unit_cv(x, y) if unit_only else fit_cv(x, y, 2))


def test_what_cannot_be_fitted_is_said_as_it_is_here() -> None:
    with FitProcess(2, False, 1, going_on) as process:
        process.send(np.zeros((60, 20), np.float32), features()[1])
        with pytest.raises(HeadError, match="none of 20 units differs between the labels of 60 rows"):
            process.result()


@pytest.mark.parametrize("when", ["sending", "fitting"])
def test_it_is_stopped_at_any_moment(when: str) -> None:
    stop = threading.Event()
    x, y = features(4000, 300)  # some seconds of work
    with FitProcess(2, False, 1, stop.is_set) as process:
        if when == "fitting":
            process.send(x, y)
        stop.set()
        with pytest.raises(FitStopped):
            process.send(x, y) if when == "sending" else process.result()
        assert process._child.poll() is None
    assert process._child.returncode is not None


def test_a_process_that_dies_is_reported() -> None:
    x, y = features(4000, 300)
    with FitProcess(2, False, 1, going_on) as process:
        process.send(x, y)
        process._child.kill()
        with pytest.raises(FitProcessError, match="ended with -9"):
            process.result()
    with FitProcess(2, False, 1, going_on) as process:
        process._child.kill()
        process._child.wait()
        process.send(x, y)  # nobody reads it, and that is no fault here
        with pytest.raises(FitProcessError, match="ended with -9"):
            process.result()


def test_without_its_worker_it_ends() -> None:
    request = {"classes": 2, "unit_only": False, "parent": 1, "rows": 60, "units": 20}
    x, y = features()
    whole = json.dumps(request).encode() + b"\n" + y.astype(np.int64).tobytes() + x.tobytes()
    for content in (whole, whole[:-1], whole[:100]):
        done = subprocess.run(children.command("worker.fit_process"), input=content, capture_output=True)
        assert (done.returncode, done.stdout) == (1, b""), done.stderr


@pytest.mark.parametrize("path", ["", "{root}", ":{root}", ".:{root}"])
def test_it_imports_nothing_from_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str
) -> None:
    monkeypatch.chdir(write_decoys(tmp_path))
    monkeypatch.setenv("PYTHONPATH", path.format(root=Path(children.__file__).parents[1]))
    test_it_is_the_same_fit_elsewhere(False)
