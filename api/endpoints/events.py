"""The events of a job as server-sent events, while it runs or afterwards."""

import contextlib
import time
from collections.abc import AsyncGenerator, Callable

from api import metrics
from api.http import answers
from api.problems import expired
from api.redis.parts import Parts
from api.redis.records import Record
from api.schemas.form import Form
from contract.jobs import Outcome

# A comment, so that proxies and clients do not take the connection for dead.
NOTHING_YET = b": nothing yet\n\n"


# (id, event, data) of events; now and then, while none comes, an empty one
Entries = AsyncGenerator[tuple[str | None, str, str]]
Frame = Callable[[str, Entries], AsyncGenerator[bytes]]  # of the events of the job of this id


async def as_events(_job_id: str, entries: Entries) -> AsyncGenerator[bytes]:
    """Server-sent events."""
    async with contextlib.aclosing(entries):
        async for event_id, event, data in entries:
            yield answers.sse(event_id, event, data) if event else NOTHING_YET


async def follow(
    parts: Parts, job_id: str, record: Record, after: str, frame: Frame = as_events
) -> answers.EventStream:
    """The events after the event `after` of a job that an earlier request made. Raises Problem if they have expired."""
    outcome = await parts.records.outcome(job_id, record)
    if outcome is None and record.ended:
        raise expired(job_id, record.state)
    if outcome is not None and not await parts.streams.has_events(job_id):
        return answers.EventStream(frame(job_id, _only(outcome, record.kind, record.form)))
    return answers.EventStream(frame(job_id, events_of(parts, job_id, record.kind, record.form, after)))


async def events_of(
    parts: Parts, job_id: str, kind: str, form: Form, after: str, asked_at: float | None = None
) -> Entries:
    """The events after the event `after` of a job.

    asked_at: of a new job, when the request came (time.perf_counter); the delays of its characters are then measured.
    """
    sent_at, measure = asked_at, metrics.FIRST_CHARACTER
    async with contextlib.aclosing(parts.streams.events(job_id, after)) as events:
        outcome: Outcome | None = None
        async for item in events:
            if item is None:
                # The end must come even if the job keeps no events, or the client has seen them all. It is sent one
                # round later: the job may have written events after they were read and before its outcome was.
                if outcome is not None:
                    yield None, *await _end(outcome, kind, form)
                    return
                record = await parts.records.record(job_id)
                outcome = Outcome.lost(job_id) if record is None else await parts.records.outcome(job_id, record)
                yield None, "", ""
                continue
            event_id, event, data = item
            if event == "token" and sent_at is not None:
                now = time.perf_counter()
                measure.observe(now - sent_at)
                sent_at, measure = now, metrics.BETWEEN_CHARACTERS
            if event != "token":
                event, data = await _end(Outcome.model_validate_json(data), kind, form)
            yield event_id, event, data


async def _only(outcome: Outcome, kind: str, form: Form) -> Entries:
    yield None, *await _end(outcome, kind, form)


async def _end(outcome: Outcome, kind: str, form: Form) -> tuple[str, str]:
    return await answers.encoded(kind, lambda: answers.final_event(outcome, kind, form))
