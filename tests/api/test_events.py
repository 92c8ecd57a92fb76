"""Streams: one that had nothing for a while is sent whole, its readers are counted, and its end comes in any case."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import redis

from api.endpoints.events import as_events, events_of
from api.redis import streams
from api.redis.parts import open_parts
from api.schemas.form import AS_IT_IS
from api.settings import ApiSettings
from contract import wire
from contract.jobs import Outcome
from tests.conftest import wait_until
from tests.support.gateway import gateway

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


OFTEN = 20  # so that one leaves while Redis is told of him, whoever is faster


def sent_and_left(url: str, path: str, body: dict[str, object]) -> None:
    """A request whose client leaves as soon as it is sent."""
    where = httpx.URL(url)
    content = json.dumps(body).encode()
    with socket.create_connection((where.host, where.port or 80)) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
        connection.sendall(head.encode() + b"\r\n\r\n" + content)


def readers(direct: redis.Redis, job_id: str) -> int:
    return int(direct.hget(wire.job(job_id), "readers") or 0)  # type: ignore[arg-type]


def test_a_client_that_leaves_before_its_stream_begins_cancels_its_job(redis_url: str) -> None:
    with (
        gateway(redis_url, NEURON_API_DISCONNECT_GRACE_S="0") as url,
        redis.Redis.from_url(redis_url) as direct,
    ):
        for _ in range(OFTEN):
            sent_and_left(url, "/generate", {"stream": True})
        wait_until(lambda: len(direct.keys(wire.cancel("*"))) == OFTEN, what="the cancellations")  # type: ignore[arg-type]
        jobs = [name.decode() for name in direct.hkeys(wire.OPEN)]  # type: ignore[union-attr]
        assert [readers(direct, job_id) for job_id in jobs] == [0] * OFTEN


def test_who_asks_for_the_head_of_a_stream_has_left_it(redis_url: str) -> None:
    with (
        gateway(redis_url, NEURON_API_DISCONNECT_GRACE_S="0") as url,
        redis.Redis.from_url(redis_url) as direct,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        with client.stream("POST", "/generate", json={"stream": True}) as stream:
            job_id = stream.headers["x-job-id"]
            wait_until(lambda: readers(direct, job_id) == 1, what="the reader")
            for _ in range(OFTEN):
                assert client.head(f"/jobs/{job_id}/events").status_code == 200
            wait_until(lambda: readers(direct, job_id) == 1, what="the end of the others")
        wait_until(lambda: direct.exists(wire.cancel(job_id)), what="the cancellation")


def test_a_stream_whose_job_redis_has_lost_fails_and_leaves_nothing(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK_S", 1)  # how often a stream in which nothing comes looks after its job
    with (
        gateway(redis_url, NEURON_API_DISCONNECT_GRACE_S="0") as url,
        redis.Redis.from_url(redis_url) as direct,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        with client.stream("POST", "/generate", json={"stream": True}) as stream:
            wait_until(lambda: readers(direct, stream.headers["x-job-id"]) == 1, what="the reader")
            direct.flushall()
            received = list(stream.iter_lines())
        assert "event: failed" in received
        (problem,) = (json.loads(line.removeprefix("data: ")) for line in received if line.startswith("data: "))
        assert (problem["type"].rpartition(":")[2], problem["status"]) == ("job-lost", 503)

    async def read_and_leave() -> None:
        async with open_parts(ApiSettings(redis_url=redis_url, api_disconnect_grace_s=0)) as parts:  # type: ignore[arg-type]
            events = parts.streams.events("lost", "0")
            assert await anext(events) is None
            await events.aclose()
            await asyncio.gather(*parts.streams._partings)

    asyncio.run(read_and_leave())
    with redis.Redis.from_url(redis_url) as direct:
        assert direct.keys(wire.job("*")) == []
