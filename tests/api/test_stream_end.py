"""A stream that found nothing for a while, and whose job then ends, tells all of it."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

from api.endpoints.events import stream
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


def told(job: Ended) -> str:
    async def read() -> bytes:
        return b"".join([chunk async for chunk in stream(cast(Any, job), "id", "generate", "float", "0")])

    return asyncio.run(read()).decode()


def test_what_was_written_before_the_end_is_told() -> None:
    text = told(Ended(TOKEN, ("2-0", "done", OUTCOME.model_dump_json())))
    assert text.index("the end") < text.index("event: done")
    assert text.count("event: done") == 1


def test_a_job_without_events_gets_its_end() -> None:
    text = told(Ended(None, TOKEN))
    assert text.count("event: done") == 1
    assert "the end" not in text
