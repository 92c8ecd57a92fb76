"""A stream that had nothing for a while, and whose job then ends, is sent whole."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any, cast

from api.endpoints.events import as_events, events_of
from api.schemas.form import AS_IT_IS
from contract.jobs import Outcome

TOKEN = "1-0", "token", '{"index": 0, "text": "the end"}'
OUTCOME = Outcome(state="done", result={"results": []})


class Ended:
    """A job that ends right after a look at its events; looks after that find `later`."""

    def __init__(self, *later: "tuple[str, str, str] | None") -> None:
        self._later = later

    async def events(self, job_id: str, after: str) -> "AsyncGenerator[tuple[str, str, str] | None]":
        for item in (None, *self._later):
            yield item

    async def record(self, job_id: str) -> object:
        return object()

    async def outcome(self, job_id: str, record: object) -> Outcome:
        return OUTCOME


def sent(job: Ended) -> str:
    parts = cast(Any, SimpleNamespace(streams=job, records=job))

    async def read() -> bytes:
        return b"".join([chunk async for chunk in as_events("id", events_of(parts, "id", "generate", AS_IT_IS, "0"))])

    return asyncio.run(read()).decode()


def test_what_was_written_before_the_end_is_sent() -> None:
    text = sent(Ended(TOKEN, ("2-0", "done", OUTCOME.model_dump_json())))
    assert text.index("the end") < text.index("event: done")
    assert text.count("event: done") == 1


def test_a_job_without_events_gets_its_end() -> None:
    text = sent(Ended(None, TOKEN))
    assert text.count("event: done") == 1
    assert "the end" not in text
