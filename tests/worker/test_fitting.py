"""Fits beside the engine: a process that can be ended at any moment, one fit at a time, and what becomes of faults."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from contract.jobs import DeleteHeadJob, FitJob, Outcome
from engine import serving
from engine.engine import Engine
from engine.execute import Task
from engine.folded import FoldedModel
from engine.reading import read_features
from engine.serving import ServedModel
from engine.text_queue import TextQueue
from model.checkpoints import checkpoint, head_store, volumes
from model.heads.cross_validation import fit_cv
from model.heads.pooling import Pooling
from tests.conftest import wait_until
from texts.preparation import prepare
from worker import fit_process
from worker.fit_process import FitProcess
from worker.fitting import Fitter
from worker.known_heads import KnownHeads

TEXTS = [f"{number} " + 6 * letter for number in range(8) for letter in "ab"]
LABELS = ["a", "b"] * 8


class HeadsInMemory:
    """Where a `Results` is expected: the heads that Redis would list."""

    def __init__(self) -> None:
        self.heads: dict[str, str] = {}

    def put_head(self, name: str, info: str) -> None:
        self.heads[name] = info

    def drop_head(self, name: str) -> None:
        self.heads.pop(name, None)


@pytest.fixture(scope="module")
def served(tiny_volume: Path) -> ServedModel:
    return serving.load(volumes.latest(tiny_volume), "cpu", "float32", 8)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(max_rows=8)
    engine.start()
    yield engine
    engine.close()


@pytest.fixture
def fitter(engine: Engine, tmp_path: Path) -> Fitter:
    return Fitter(engine, KnownHeads(tmp_path / "heads", TextQueue()), HeadsInMemory(), window=4)


def job(name: str, **changes: Any) -> FitJob:
    fields = {"id": f"a-fit-of-a-test-{name}", "timeout_s": 60, "texts": TEXTS, "labels": LABELS, "unit_only": False}
    return FitJob(**fields | {"name": name, "priority": "bulk", "pooling": "mean"} | changes)


def do(fitter: Fitter, served: ServedModel, *tasks: Task) -> list[Outcome]:
    """Side by side, to their outcomes."""
    outcomes: dict[int, Outcome] = {}
    for number, task in enumerate(tasks):
        fitter.start(task, task.job, served, lambda ending, number=number: outcomes.update({number: ending()}))
    wait_until(lambda: len(outcomes) == len(tasks), what="all ends")
    return [outcomes[number] for number in range(len(tasks))]


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_what_is_fitted_are_the_features_of_the_pooling(
    fitter: Fitter, served: ServedModel, tiny_volume: Path, tmp_path: Path, pooling: Pooling
) -> None:
    (outcome,) = do(fitter, served, Task(job("one", pooling=pooling), threading.Event()))
    assert outcome.result is not None
    assert outcome.result["pooling"] == pooling
    found = head_store.read(tmp_path / "heads", "one").head
    assert found.pooling == pooling
    model = checkpoint.read(volumes.latest(tiny_volume)).model
    x = read_features(FoldedModel(model, dtype=torch.float32), list(map(prepare, TEXTS)), pooling)
    expected = fit_cv(x, np.array([0, 1] * 8), 2)
    assert found.weights.keys() == expected.weights.keys()
    for unit, weights in found.weights.items():
        assert weights == pytest.approx(expected.weights[unit], rel=0.02)


def test_a_worker_has_one_fit_at_a_time(
    fitter: Fitter, served: ServedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reading: list[str] = []
    most = 0
    read, end = Fitter._read, FitProcess.__exit__

    def counted_read(self: Fitter, task: Task, job: Any, served: ServedModel) -> Any:
        nonlocal most
        reading.append(task.job.id)
        most = max(most, len(reading))
        return read(self, task, job, served)

    def counted_end(self: FitProcess, *_: object) -> None:
        end(self)
        reading.pop()

    monkeypatch.setattr(Fitter, "_read", counted_read)
    monkeypatch.setattr(FitProcess, "__exit__", counted_end)
    outcomes = do(fitter, served, *(Task(job(name), threading.Event()) for name in ("one", "two", "three")))
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert most == 1
    assert head_store.names(tmp_path / "heads").keys() == {"one", "two", "three"}


def test_who_waits_for_a_turn_is_cancelled_and_is_late(fitter: Fitter, served: ServedModel, tmp_path: Path) -> None:
    cancelled = Task(job("cancelled"), threading.Event())
    late = Task(job("late"), threading.Event(), time.monotonic() + 0.3)
    cancelled.cancelled.set()
    with fitter._turn:
        outcomes = do(fitter, served, cancelled, late)
    assert outcomes[0].state == "cancelled"
    assert outcomes[1].error is not None
    assert outcomes[1].error.code == "deadline-exceeded"
    assert head_store.names(tmp_path / "heads") == {}


def test_an_engine_that_fails_ends_the_fit(
    fitter: Fitter, served: ServedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("sabotaged")

    monkeypatch.setattr(served.backend, "run", fail)
    (outcome,) = do(fitter, served, Task(job("none"), threading.Event()))
    assert outcome.error is not None
    assert outcome.error.code == "engine-failure"
    assert "sabotaged" in outcome.error.detail
    monkeypatch.undo()
    # Every place in the window was given back.
    assert do(fitter, served, Task(job("next"), threading.Event()))[0].state == "done"


def test_a_full_disk_is_reported(
    fitter: Fitter, served: ServedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(head_store, "replace_file", full)
    (outcome,) = do(fitter, served, Task(job("none"), threading.Event()))
    assert outcome.error is not None
    assert outcome.error.code == "cannot-keep-heads"
    assert "No space left on device" in outcome.error.detail
    assert head_store.names(tmp_path / "heads") == {}


def test_a_job_that_went_elsewhere_writes_nothing(
    fitter: Fitter, served: ServedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = Task(job("lost"), threading.Event())
    result = FitProcess.result

    def lost_meanwhile(self: FitProcess) -> Any:
        fitted = result(self)
        task.cancelled.set()  # as _renew_leases does
        return fitted

    monkeypatch.setattr(fit_process.FitProcess, "result", lost_meanwhile)
    (outcome,) = do(fitter, served, task)
    assert outcome.state == "cancelled"
    assert head_store.names(tmp_path / "heads") == {}


def test_deleting(fitter: Fitter, served: ServedModel, tmp_path: Path) -> None:
    delete = DeleteHeadJob(id="a-deletion-of-a-test", timeout_s=60, name="mine")
    (early,) = do(fitter, served, Task(delete, threading.Event()))
    assert early.error is not None
    assert early.error.code == "unknown-head"
    assert not (tmp_path / "heads").exists()
    assert do(fitter, served, Task(job("mine"), threading.Event()))[0].state == "done"
    assert do(fitter, served, Task(delete, threading.Event()))[0].state == "done"
    assert head_store.names(tmp_path / "heads") == {}
    (again,) = do(fitter, served, Task(delete, threading.Event()))
    assert again.error is not None
    assert again.error.code == "unknown-head"
