"""`plan`: a job as rows for the engine, and how what they give becomes the result's JSON."""

import base64
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np

from contract.jobs import (
    AnyJob,
    ClassifyJob,
    DeleteHeadJob,
    ErrorCode,
    FeaturizeJob,
    FitJob,
    GenerateJob,
    JobError,
    TraceJob,
)
from engine.rows import RowRequest, RowResult, Sampling
from engine.serving import ServedModel
from model.checkpoints.head_store import StoredHead
from model.heads.classifier import Head, head_probabilities
from model.heads.pooling import pool
from model.texts.preparation import align, prepare, prepare_prompt

# Draws of the samples of one job are kept apart by this stride between their seeds (the golden ratio of 2^63).
_SEED_STRIDE = 5700357409661599241

_SENTIMENT_HEAD = "sentiment"  # the checkpoint's, negative and positive (trainer/publishing/publish.py)


class JobFailed(Exception):
    """The job cannot be done; carries what its sender is told."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.error = JobError(code=code, detail=detail)


@dataclass(frozen=True)
class Plan:
    """A job as rows: what the engine shall do, and how its results become the job's."""

    requests: list[RowRequest]
    shape: Callable[[list[RowResult]], dict[str, Any]]
    stream: bool = False  # whether generated text is wanted as it comes
    then: "Callable[[list[RowResult]], Plan] | None" = None  # what is still to be done with these; its shape counts


FindHead = Callable[[str], StoredHead | None]  # a head that a user fitted, by its name


def no_head(_name: str) -> None:
    """Where no heads are kept."""


def plan(job: AnyJob, served: ServedModel, find_head: FindHead = no_head, deadline: float = math.inf) -> Plan:
    """deadline: of its rows, by time.monotonic(). Raises JobFailed where the model cannot do what the job asks."""
    match job:
        case ClassifyJob():
            return _classify(job, served, find_head, deadline)
        case FeaturizeJob():
            return _featurize(job, served, deadline)
        case TraceJob():
            return _trace(job, served, deadline)
        case GenerateJob():
            return _generate(job, served, deadline)
        case FitJob() | DeleteHeadJob():
            raise TypeError(f"{job.kind}: more than rows, see fitting.py")
        case _:
            assert_never(job)


def named(name: str, step: int) -> dict[str, Any]:
    """What every result says of the model."""
    return {"model": {"name": name, "step": step}}


def _name(served: ServedModel) -> dict[str, Any]:
    return named(served.info.name, served.info.step)


def _readings(job: ClassifyJob | FeaturizeJob, deadline: float, mean: bool = False) -> list[RowRequest]:
    return [RowRequest(prepare(text), mean=mean, priority=job.priority, deadline=deadline) for text in job.texts]


def _head(name: str, served: ServedModel, find_head: FindHead) -> Head:
    """The checkpoint's own heads come first."""
    own = served.manifest.heads.get(name)
    if own is not None:
        return own
    stored = find_head(name)
    if stored is None:
        known = ", ".join(sorted(served.manifest.heads)) or "none"
        detail = f"the model has no head {name!r}; its heads: {known}; and none of that name was fitted"
        raise JobFailed(ErrorCode.UNKNOWN_HEAD, detail)
    if not stored.belongs_to(served.manifest):
        detail = (
            f"head {name!r} was fitted on the features of {stored.checkpoint} step {stored.step}, and {served.version} "
            "is served: delete it (DELETE /heads/NAME) and fit it again (POST /heads), or serve that checkpoint again"
        )
        raise JobFailed(ErrorCode.HEAD_OF_OTHER_CHECKPOINT, detail)
    return stored.head


def _classify(job: ClassifyJob, served: ServedModel, find_head: FindHead, deadline: float) -> Plan:
    head = _head(job.head, served, find_head)
    calibration = served.manifest.sentiment

    def shape(rows: list[RowResult]) -> dict[str, Any]:
        features = np.stack([pool(row.cell, row.mean, head.pooling) for row in rows])
        results = []
        for row, probabilities in zip(rows, head_probabilities(head, features), strict=True):
            best = int(probabilities.argmax())
            value = None if calibration is None else float(row.cell[calibration.unit])
            results.append(
                {
                    "label": head.labels[best],
                    "score": float(probabilities[best]),
                    "probabilities": dict(zip(head.labels, probabilities.tolist(), strict=True)),
                    "sentiment": None if calibration is None or value is None else calibration.sentiment(value),
                    "unit_value": value,
                }
            )
        return _name(served) | {"head": job.head, "results": results}

    return Plan(_readings(job, deadline, mean=head.pooling == "mean"), shape)


def _featurize(job: FeaturizeJob, served: ServedModel, deadline: float) -> Plan:
    def shape(rows: list[RowResult]) -> dict[str, Any]:
        features = np.stack([pool(row.cell, row.mean, job.pooling) for row in rows]).astype("<f4")
        # Little-endian float32, a third of the size of decimal digits; the gateway gives it its final form.
        packed = base64.b64encode(features.tobytes()).decode("ascii")
        return _name(served) | {"pooling": job.pooling, "units": served.backend.units, "features": packed}

    return Plan(_readings(job, deadline, mean=job.pooling == "mean"), shape)


def _trace(job: TraceJob, served: ServedModel, deadline: float) -> Plan:
    calibration = served.manifest.sentiment
    units = job.units
    if units is None:
        if calibration is None:
            raise JobFailed(ErrorCode.NO_SENTIMENT_UNIT, "the model has no sentiment unit: name the units to trace")
        units = [calibration.unit]
    _check_units(units, served)
    sentiment_at = units.index(calibration.unit) if calibration is not None and calibration.unit in units else None

    def shape(rows: list[RowResult]) -> dict[str, Any]:
        steps = []
        for origin, values in zip(align(job.text), rows[0].trace.tolist(), strict=True):
            of_text = job.text[origin.start : origin.end]
            step = {"byte": origin.byte, "start": origin.start, "end": origin.end, "text": of_text, "values": values}
            if calibration is not None and sentiment_at is not None:
                step["sentiment"] = calibration.sentiment(values[sentiment_at])
            steps.append(step)
        return _name(served) | {"units": units, "bytes": steps}

    request = RowRequest(prepare(job.text), traced=tuple(units), priority=job.priority, deadline=deadline)
    return Plan([request], shape)


def _generate(job: GenerateJob, served: ServedModel, deadline: float) -> Plan:
    clamps = dict(job.clamp)
    _check_units(clamps, served)
    if job.sentiment is not None:
        calibration = served.manifest.sentiment
        if calibration is None:
            raise JobFailed(ErrorCode.NO_SENTIMENT_UNIT, "the model has no sentiment unit: leave sentiment out")
        clamps.setdefault(calibration.unit, calibration.value(job.sentiment))
    requests = [
        RowRequest(
            text=prepare_prompt(job.prompt),
            generate=job.length,
            sampling=Sampling(job.temperature, job.top_k, job.top_p, (job.seed + index * _SEED_STRIDE) % 2**63),
            stop=tuple(stop.encode("utf-8") for stop in job.stop),
            clamps=clamps,
            priority=job.priority,
            deadline=deadline,
        )
        for index in range(job.best_of)
    ]

    def shape(rows: list[RowResult]) -> dict[str, Any]:
        samples = sorted(_samples(rows), key=_unlikelihood)
        return _name(served) | {"seed": job.seed, "results": samples[: job.n]}

    if job.rank_by == "likelihood" or job.sentiment is None:
        return Plan(requests, shape, stream=job.stream)
    head = served.manifest.heads.get(_SENTIMENT_HEAD)
    if head is None or len(head.labels) != 2:
        detail = f"the model has no head {_SENTIMENT_HEAD!r} of two labels to rank by: leave rank_by out"
        raise JobFailed(ErrorCode.UNKNOWN_HEAD, detail)
    return Plan(requests, shape, then=lambda rows: _ranked(job, served, head, rows, deadline))


def _ranked(job: GenerateJob, served: ServedModel, head: Head, written: list[RowResult], deadline: float) -> Plan:
    """Read what was written, as POST /classify would, with no unit held: nearest to the asked sentiment comes first."""
    mean = head.pooling == "mean"
    requests = [
        RowRequest(prepare(job.prompt + row.text), mean=mean, priority=job.priority, deadline=deadline)
        for row in written
    ]
    asked = (1 + (job.sentiment or 0.0)) / 2

    def shape(rows: list[RowResult]) -> dict[str, Any]:
        features = np.stack([pool(row.cell, row.mean, head.pooling) for row in rows])
        positive = head_probabilities(head, features)[:, 1].tolist()
        samples = [
            sample | {"positive": probability} for sample, probability in zip(_samples(written), positive, strict=True)
        ]
        samples.sort(key=lambda sample: (abs(sample["positive"] - asked), _unlikelihood(sample)))
        return _name(served) | {"seed": job.seed, "results": samples[: job.n]}

    return Plan(requests, shape)


def _samples(rows: list[RowResult]) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "text": row.text,
            "mean_log_probability": row.log_probability / max(1, row.generated),
            "finish_reason": row.finish_reason,
        }
        for index, row in enumerate(rows)
    ]


def _unlikelihood(sample: dict[str, Any]) -> float:
    return -float(sample["mean_log_probability"])


def _check_units(units: Iterable[int], served: ServedModel) -> None:
    for unit in units:
        if not 0 <= unit < served.backend.units:
            detail = f"unit {unit} does not exist: the model has units 0 to {served.backend.units - 1}"
            raise JobFailed(ErrorCode.UNKNOWN_UNIT, detail)
