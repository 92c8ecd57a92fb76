"""The events of a job as server-sent events: while it runs, or of one that was made before."""

import contextlib
import time
from collections.abc import AsyncGenerator

from api import metrics
from api.http import answers
from api.problems import expired
from api.redis.parts import Parts
from api.redis.records import Record
from contract.jobs import Outcome


async def follow(parts: Parts, job_id: str, record: Record, after: str) -> answers.EventStream:
    """The events of a job that was made before, after the event `after`. Raises Problem where they are gone."""
    outcome = await parts.records.outcome(job_id, record)
    if outcome is None and record.ended:
        raise expired(job_id, record.state)
    if outcome is not None and not await parts.streams.has_events(job_id):
        return answers.EventStream(_only(answers.final_event(outcome, record.kind, record.encoding)))
    return answers.EventStream(stream(parts, job_id, record.kind, record.encoding, after))


async def stream(
    parts: Parts, job_id: str, kind: str, encoding: str, after: str, asked_at: float | None = None
) -> AsyncGenerator[bytes]:
    """The events of a job as server-sent events, after the event `after`.

    asked_at: when, by time.perf_counter, a job was asked for that is fresh; how fast its characters come is measured.
    """
    told_at, measure = asked_at, metrics.FIRST_CHARACTER
    async with contextlib.aclosing(parts.streams.events(job_id, after)) as events:
        outcome: Outcome | None = None
        async for item in events:
            if item is None:
                # A job that keeps no events, or a client that has seen them all, still gets its end. Nothing must have
                # come after that either: the job may have ended between the look at its events and that at its end.
                if outcome is not None:
                    yield answers.sse(None, *answers.final_event(outcome, kind, encoding))
                    return
                record = await parts.records.record(job_id)
                outcome = None if record is None else await parts.records.outcome(job_id, record)
                yield b": nothing yet\n\n"
                continue
            event_id, event, data = item
            if event == "token" and told_at is not None:
                now = time.perf_counter()
                measure.observe(now - told_at)
                told_at, measure = now, metrics.BETWEEN_CHARACTERS
            if event != "token":
                event, data = answers.final_event(Outcome.model_validate_json(data), kind, encoding)
            yield answers.sse(event_id, event, data)


async def _only(event: tuple[str, str]) -> AsyncGenerator[bytes]:
    yield answers.sse(None, *event)
