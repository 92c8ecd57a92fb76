"""A job that continues after its first rows: what was generated is read to be ranked, and whatever happens, it ends."""

import queue
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from contract.jobs import ErrorCode, GenerateJob
from engine import plans, serving
from engine.engine import Engine
from engine.execute import Ending, Task, execute, start
from engine.plans import JobFailed
from engine.rows import RowRequest, RowResult
from engine.serving import ServedModel
from model.heads.classifier import Head
from tests.conftest import publish_tiny

RANKED = GenerateJob(
    id="a-job-of-the-test",
    timeout_s=float("inf"),
    prompt="It",
    sentiment=1.0,
    clamp={},
    length=20,
    temperature=1.0,
    top_k=256,
    top_p=1.0,
    seed=1,
    n=2,
    best_of=4,
    rank_by="sentiment",
    stop=[],
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return serving.load(publish_tiny(tmp_path_factory.mktemp("volume"), 1), "auto", "auto", 16)


def test_a_model_without_that_head_cannot_rank(served: ServedModel, engine: Engine) -> None:
    of_length = {"sentiment": replace(served.manifest.heads["sentiment"], labels=["short", "long"])}
    for heads in ({}, of_length):
        other = replace(served, manifest=replace(served.manifest, heads=heads))
        with pytest.raises(JobFailed, match="no head 'sentiment' that tells negative from positive") as failed:
            execute(RANKED, other, engine)
        assert failed.value.error.code == ErrorCode.UNKNOWN_HEAD


def test_what_goes_wrong_between_writing_and_reading_ends_the_job(
    served: ServedModel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> plans.Plan:
        raise RuntimeError("sabotage")

    monkeypatch.setattr(plans, "_ranked", fails)
    with pytest.raises(JobFailed, match="RuntimeError, which was logged"):
        execute(RANKED, served, engine)
    assert execute(RANKED.model_copy(update={"rank_by": "likelihood"}), served, engine)["results"]


def test_other_rows_run_while_samples_are_prepared_to_be_read(
    served: ServedModel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preparing many samples of a long prompt takes longer than an engine may stand still."""
    ranked = plans._ranked

    def beside_another_row(*arguments: Any) -> plans.Plan:
        (row,) = engine.submit(served.backend, [RowRequest(b"another text")], threading.Event())
        row.done.result(20)
        return ranked(*arguments)

    monkeypatch.setattr(plans, "_ranked", beside_another_row)
    assert len(execute(RANKED, served, engine)["results"]) == RANKED.n


def test_a_job_ends_whose_engine_is_closed_between_writing_and_reading(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(max_rows=16, block_steps=8)
    engine.start()
    ranked = plans._ranked

    def closing(*arguments: Any) -> plans.Plan:
        engine.close()
        return ranked(*arguments)

    monkeypatch.setattr(plans, "_ranked", closing)
    task, ends = Task(RANKED, threading.Event()), queue.SimpleQueue[Ending]()
    start(task, served, engine, lambda *_: None, ends.put, plans.no_head)
    error = ends.get(timeout=180)().error
    assert error is not None
    assert (error.code, error.detail) == (ErrorCode.ENGINE_FAILURE, "the engine is shutting down")


def test_a_deadline_holds_for_the_reading_too(
    served: ServedModel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked = plans._ranked

    def late(job: GenerateJob, model: ServedModel, head: Head, rows: list[RowResult], _deadline: float) -> plans.Plan:
        return ranked(job, model, head, rows, time.monotonic() - 1)

    monkeypatch.setattr(plans, "_ranked", late)
    with pytest.raises(JobFailed) as failed:
        execute(RANKED, served, engine)
    assert failed.value.error.code == ErrorCode.DEADLINE_EXCEEDED
