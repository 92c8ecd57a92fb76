"""`Runner`: jobs on an engine of this process, from any thread. What `Neuron` is in front of; it loads torch."""

import atexit
import threading
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from contract.jobs import ClassifyJob, TraceJob
from engine import serving
from engine.engine import Engine
from engine.execute import Task, follow
from engine.serving import ServedModel
from model.checkpoints import volumes
from model.checkpoints.checkpoint import CheckpointError
from sentiment_neuron.errors import LoadError, NeuronError, RequestFailedError
from sentiment_neuron.heads import FittedHeads, heads_directory
from sentiment_neuron.requests import LocalJob

_RUNNERS: "weakref.WeakSet[Runner]" = weakref.WeakSet()


class Runner:
    """A model, and the engine that it runs on until `close`."""

    def __init__(self, served: ServedModel, max_rows: int, heads: Path) -> None:
        """max_rows: side by side in a step. heads: the directory of those that users fitted."""
        self.info = served.info
        self._served: ServedModel | None = served
        self._heads = FittedHeads(heads, served.info.device)
        self._engine = Engine(max_rows=max_rows)
        self._engine.start()
        _RUNNERS.add(self)

    def follow(self, job: LocalJob) -> Generator[str, None, dict[str, Any]]:
        """Yield generated text as it comes, whole characters, if the job streams; return the result as JSON.

        Closing the generator cancels the job. Raises RequestFailedError, and NeuronError after `close`.
        """
        served = self.check_open()
        own = served.manifest.heads
        head = job.head if isinstance(job, ClassifyJob | TraceJob) else None
        fitted = None if head is None or head in own else self._heads.find(head)
        outcome = yield from follow(Task(job, threading.Event()), served, self._engine, lambda _: fitted)
        if outcome.error is not None:
            raise RequestFailedError(outcome.error.code, outcome.error.detail)
        return outcome.result or {}

    def check_open(self) -> ServedModel:
        """The model. Raises NeuronError after `close`."""
        if (served := self._served) is None:
            raise NeuronError("the Neuron is closed")
        return served

    def close(self) -> None:
        """End the engine and release the model; what runs fails with RequestFailedError. Again, it does nothing."""
        self._served = None
        self._engine.close()
        self._heads.close()


@atexit.register
def _close_all() -> None:
    """Torch aborts a process that ends while a thread of it computes."""
    for runner in list(_RUNNERS):
        runner.close()


def load(place: Path | None, device: str, dtype: str, max_rows: int, heads: Path | None) -> Runner:
    """As `Neuron.load`. Raises LoadError."""
    place = volumes.SHIPPED if place is None else place
    if device == "cuda" and not torch.cuda.is_available():
        raise LoadError("device is 'cuda', and torch finds no CUDA device here: use 'cpu' or 'auto'")
    heads = heads_directory(place) if heads is None else heads
    try:
        served = serving.load(volumes.resolve(place), device, dtype, max_rows)
    except CheckpointError as error:
        raise LoadError(str(error)) from error
    return Runner(served, max_rows, heads)
