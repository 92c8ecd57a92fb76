"""What is recorded of a job that has ended: metrics, a line in the log, and the spans of its request."""

import logging
import time
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from contract import logs, telemetry
from contract.jobs import AnyJob, Outcome
from worker import metrics


@dataclass(frozen=True)
class Times:
    """Of a job, by time.monotonic: when it was accepted, begun by a worker, admitted to the engine, and ended."""

    accepted: float
    begun: float
    admitted: float
    ended: float

    def parts(self, now: float) -> dict[str, tuple[float, float]]:
        """Name -> (from, to), in order. In the last part the outcome is serialized, which goes to Redis `now`."""
        return {
            "queued": (self.accepted, self.begun),
            "waited": (self.begun, self.admitted),
            "computed": (self.admitted, self.ended),
            "answered": (self.ended, now),
        }


def account(job: AnyJob, outcome: Outcome, model: str, times: Times) -> None:
    now = time.monotonic()
    metrics.JOBS.labels(job.kind, outcome.state).inc()
    metrics.JOB_SECONDS.labels(job.kind).observe(now - times.begun)
    if logs.JOBS.isEnabledFor(logging.INFO):
        durations = {f"{name}_s": round(end - begin, 6) for name, (begin, end) in times.parts(now).items()}
        logs.JOBS.info("job ended", extra={**_known(job, outcome, model), **durations})
    if job.traceparent is not None:
        _record_spans(job, _known(job, outcome, model), times, now)


def _known(job: AnyJob, outcome: Outcome, model: str) -> dict[str, str | int]:
    """What logs and spans say of the job: sizes, never a text."""
    match job.kind:
        case "generate":
            texts, generated = [job.prompt], job.best_of * job.length
        case "trace":
            texts, generated = [job.text], 0
        case "delete-head":
            texts, generated = [], 0
        case _:
            texts, generated = job.texts, 0
    size = sum(len(text.encode()) for text in texts)
    known: dict[str, str | int] = {"job_id": job.id, "kind": job.kind, "state": outcome.state, "model": model}
    if job.request_id is not None:
        known["request_id"] = job.request_id
    return known | {"texts": len(texts), "bytes": size, "generated": generated}


def _record_spans(job: AnyJob, known: dict[str, str | int], times: Times, now: float) -> None:
    """Make the spans when the job is over, so that computing code does not carry them."""
    clock = time.time_ns()

    def at(moment: float) -> int:
        return clock - int((now - moment) * 1e9)

    request = telemetry.CONTEXT.extract({"traceparent": job.traceparent or ""})
    attributes = {f"neuron.{name}": value for name, value in known.items()}
    span = telemetry.TRACER.start_span(
        f"job {job.kind}", request, SpanKind.CONSUMER, attributes, start_time=at(times.accepted)
    )
    within = trace.set_span_in_context(span)
    for name, (begin, end) in times.parts(now).items():
        telemetry.TRACER.start_span(name, within, start_time=at(begin)).end(at(end))
    span.end(at(now))
