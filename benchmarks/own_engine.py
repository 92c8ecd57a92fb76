"""What the engine does by itself, beside which `neuron bench service` holds the service: the worker without Celery."""

import itertools
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from benchmarks.windows import counted
from contract.jobs import AnyJob, ClassifyJob, GenerateJob, Outcome
from engine import execute, serving
from engine.engine import Engine
from engine.execute import Ending, Task
from engine.plans import no_head
from engine.serving import ServedModel
from model.checkpoints import volumes
from worker.engine_metrics import EngineMetrics
from worker.settings import WorkerSettings

TEXTS_A_REQUEST = 64
STREAMS = 64
STREAM_BYTES = 100
PROMPT = "This is"
CLIENTS = 16  # of large requests
_ID = "0" * 22
_NEVER = 1e9  # seconds

# The texts of a load come again and again; each must be read whole every time.
ENVIRONMENT = {"NEURON_WORKER_PREFIX_CACHE_MB": "0"}


@contextmanager
def own_engine() -> Iterator["OwnEngine"]:
    """The model and the settings that a worker started from here would have, but for `ENVIRONMENT`."""
    settings = WorkerSettings(worker_prefix_cache_mb=0.0)
    if settings.worker_threads:
        torch.set_num_threads(settings.worker_threads)
    directory = volumes.latest(settings.checkpoint_dir or volumes.SHIPPED)
    served = serving.load(
        directory,
        settings.worker_device,
        settings.worker_dtype,
        settings.worker_max_rows,
        settings.worker_bits_per_byte,
    )
    engine = Engine(
        settings.worker_max_rows,
        settings.worker_block_steps,
        settings.worker_bulk_share,
        settings.worker_batching_delay_ms / 1000,
        settings.worker_prefix_cache_mb,
        EngineMetrics(),
    )
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # as the worker
    engine.start()
    try:
        yield OwnEngine(served, engine)
    finally:
        engine.close()
        sys.setswitchinterval(before)


class OwnEngine:
    """The engine as the worker sets it up, without the worker."""

    def __init__(self, served: ServedModel, engine: Engine) -> None:
        self._served = served
        self._engine = engine

    def latencies_ms(self, texts: Sequence[str], seconds: float) -> list[float]:
        """The median time of each text alone, in rounds; at least one."""
        times: list[list[float]] = [[] for _ in texts]
        until = time.perf_counter() + seconds
        while not times[-1] or time.perf_counter() < until:
            for text, taken in zip(texts, times, strict=True):
                began = time.perf_counter()
                execute.execute(_classify_job([text]), self._served, self._engine)
                taken.append(1000 * (time.perf_counter() - began))
        return [statistics.median(taken) for taken in times]

    def texts_per_s(self, texts: Sequence[str], seconds: float, warm_up_s: float) -> float:
        """With as many requests waiting as in the load of large requests; after the time to warm up."""
        starts = range(0, len(texts) - TEXTS_A_REQUEST + 1, TEXTS_A_REQUEST)
        jobs = [_classify_job(texts[start : start + TEXTS_A_REQUEST]) for start in starts]
        began = time.perf_counter()
        ended: list[float] = []

        def client(number: int) -> None:
            passed = 0.0
            for turn in itertools.count(number, CLIENTS):
                if passed > seconds:
                    return
                execute.execute(jobs[turn % len(jobs)], self._served, self._engine)
                passed = time.perf_counter() - began
                ended.append(passed)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done, window_s = counted(ended, warm_up_s, seconds)
        return len(done) * TEXTS_A_REQUEST / window_s

    def streams(self, seconds: float) -> dict[str, Any]:
        """As many streams at once as through the service; the time of the first characters and between events."""
        first: list[float] = []
        between: list[float] = []
        characters = rounds = 0
        last: dict[str, float] = {}
        began = round_began = time.perf_counter()

        def on_text(job: AnyJob, _: int, text: str) -> None:
            nonlocal characters
            now = time.perf_counter()
            (between if job.id in last else first).append(1000 * (now - last.get(job.id, round_began)))
            last[job.id] = now
            characters += len(text)

        while rounds == 0 or time.perf_counter() - began < seconds:
            round_began = time.perf_counter()
            tasks = [Task(_generate_job(rounds * STREAMS + number), threading.Event()) for number in range(STREAMS)]
            self._run(tasks, on_text)
            rounds += 1
        elapsed = time.perf_counter() - began
        return {
            "first_character_ms": percentiles(first),
            "between_events_ms": percentiles(between),
            "characters_per_s": characters / elapsed,
        }

    def _run(self, tasks: Sequence[Task], on_text: Callable[[AnyJob, int, str], None]) -> None:
        """Do jobs side by side. on_text gets (job, index of the sample, whole characters), on this thread."""
        # A queue, because the engine's thread must never wait for the callback.
        events: queue.SimpleQueue[tuple[AnyJob, Ending | tuple[int, str]]] = queue.SimpleQueue()

        def begin(task: Task) -> None:
            job = task.job
            execute.start(
                task,
                self._served,
                self._engine,
                lambda index, text: events.put((job, (index, text))),
                lambda ending: events.put((job, ending)),
                no_head,
            )

        for task in tasks:
            begin(task)
        left = len(tasks)
        while left:
            job, event = events.get()
            if isinstance(event, tuple):
                on_text(job, *event)
            else:
                _must_be_done(event())
                left -= 1


def percentiles(ms: Sequence[float]) -> dict[str, float]:
    """p50, p99 and how many there are."""
    return {"p50": float(np.percentile(ms, 50)), "p99": float(np.percentile(ms, 99)), "count": len(ms)}


def _classify_job(texts: Sequence[str]) -> ClassifyJob:
    return ClassifyJob(id=_ID, timeout_s=_NEVER, texts=list(texts), head="sentiment")


def _generate_job(number: int) -> GenerateJob:
    return GenerateJob(
        id=f"{number:022d}", timeout_s=_NEVER, prompt=PROMPT, sentiment=None, clamp={}, length=STREAM_BYTES,
        temperature=0.7, top_k=256, top_p=1.0, seed=number, n=1, best_of=1, stop=[], stream=True,
    )  # fmt: skip


def _must_be_done(outcome: Outcome) -> None:
    if outcome.state != "done":
        raise RuntimeError(f"the engine could not do a job: {outcome.error}")
