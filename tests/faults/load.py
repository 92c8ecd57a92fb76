"""The load that faults meet: clients that ask for jobs of every kind, see each one through, and account for it.

A client behaves as a careful user's would: every POST has an Idempotency-Key and is sent again after a 503 or a broken
connection, a job is asked for again until it has ended, a broken stream is taken up where it stopped. What a request
must be answered with is known before: the same request's answer in calm times.
"""

import asyncio
import contextlib
import functools
import itertools
import json
import random
import secrets
import ssl
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import redis
import uvloop

from contract import wire
from tests.faults.figures import MADE

CLIENTS = 200 if MADE else 50
CALM_S = 3.0 if MADE else 1.0  # the load's, before and after what befalls a service
_PATIENCE_S = 120.0  # with one job; then it counts as lost
_AGAIN_S = 0.25
_MESSAGES_S = 30.0  # for second messages of ended jobs to be taken
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # one for all clients, for each would make its own
_WORDS = ("a", "the", "film", "was", "good", "bad", "never", "again", "loved", "it", "slow", "brilliant", "and", "but")


@dataclass(frozen=True)
class Request:
    """mode: wait for the answer, come back for it (202), or read it as it is generated."""

    path: str
    body: dict[str, Any]
    mode: Literal["wait", "return", "stream"]


def mixed(count: int = 64, seed: int = 0) -> list[Request]:
    """Different requests of every kind and mode, of some ten to some thousand bytes."""
    draw = random.Random(seed)  # noqa: S311 - not a secret

    def text(longest: int) -> str:
        return " ".join(draw.choice(_WORDS) for _ in range(draw.randint(2, longest))) + "."

    def one(number: int) -> Request:
        match number % 8:
            case 0 | 1:
                return Request("/classify", {"text": text(20)}, "wait")
            case 2:
                return Request("/classify", {"texts": [text(30) for _ in range(8)]}, "return")
            case 3:
                return Request("/featurize", {"text": text(20), "encoding": "base64"}, "wait")
            case 4:
                return Request("/trace", {"text": text(10), "units": [number % 48]}, "return")
            case 5:
                return Request("/generate", _generate(draw, draw.randint(20, 200)), "wait")
            case 6:
                return Request("/generate", _generate(draw, draw.randint(50, 800)) | {"stream": True}, "stream")
            case _:
                return Request("/generate", _generate(draw, draw.randint(50, 800)) | {"stream": True}, "return")

    return [one(number) for number in range(count)]


def _generate(draw: random.Random, length: int) -> dict[str, Any]:
    seed = draw.randrange(2**32)
    return {"prompt": "I", "length": length, "stop": [], "seed": seed, "sentiment": draw.choice([None, -1.0, 1.0])}


@dataclass
class Seen:
    """One job as its client saw it. Times by time.monotonic; accepted: when its id was reported, or its answer."""

    request: Request
    key: str
    sent: float
    accepted: float | None = None
    ended: float | None = None
    result: Any = None
    problem: str | None = None  # how it failed
    faults: list[str] = field(default_factory=list)  # what the client met on the way


class Load:
    """`clients` clients in a thread of their own, from `with` until its end, when all jobs have been seen through.

    What each request must be answered with is learnt before they begin.
    """

    def __init__(self, urls: Sequence[str], requests: Sequence[Request], clients: int = CLIENTS) -> None:
        """urls: of one or more gateways, taken in turn."""
        self.urls = list(urls)  # may be changed meanwhile, as a load balancer does
        self.requests = requests
        self.jobs: list[Seen] = []
        self.refusals: list[tuple[float, float]] = []  # when a request that got a 503 was sent, and answered
        self.clients = clients
        self._name = secrets.token_hex(4)  # other loads' keys stand for other jobs
        self._turns = itertools.count()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), name="load")
        self._cancel: Callable[[], object] = lambda: None
        self._expected: dict[str, Any] = {}

    def __enter__(self) -> "Load":
        uvloop.run(self._learn())
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # the test has failed already; what is under way may never end
            self._cancel()
        self.stop()

    def stop(self) -> None:
        """Begin no more; returns when all have ended, or were given up as lost."""
        self._stopping.set()
        self._thread.join()

    def ended_since(self, moment: float) -> int:
        return sum(job.ended is not None and job.ended > moment for job in list(self.jobs))

    def account(self) -> "Account":
        return Account(self.jobs, self._expected)

    async def _learn(self) -> None:
        """Ask for each request once, alone, before anything goes wrong."""
        keys = (f"{self._name}-calm-{number}" for number in itertools.count())
        jobs = [Seen(request, key, time.monotonic()) for request, key in zip(self.requests, keys, strict=False)]
        await asyncio.gather(*(self._alone(job) for job in jobs))
        for job in jobs:
            assert job.result is not None, f"{job.request} fails in calm times: {job.problem} {job.faults}"
            self._expected[repr(job.request)] = job.result

    async def _alone(self, job: Seen) -> None:
        async with _session() as http:
            await self._see_through(http, job)

    async def _run(self) -> None:
        clients = asyncio.gather(*(self._client(number) for number in range(self.clients)))
        self._cancel = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, clients.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await clients

    async def _client(self, number: int) -> None:
        async with _session() as http:
            for turn in itertools.count():
                if self._stopping.is_set():
                    return
                request = self.requests[(number + turn) % len(self.requests)]
                job = Seen(request, f"{self._name}-{number}-{turn}", time.monotonic())
                self.jobs.append(job)
                await self._see_through(http, job)

    def _url(self) -> str:
        urls = self.urls
        return urls[next(self._turns) % len(urls)]

    async def _see_through(self, http: httpx.AsyncClient, job: Seen) -> None:
        with contextlib.suppress(TimeoutError):  # then it is lost; a stream would say for ever that nothing comes
            async with asyncio.timeout(_PATIENCE_S):
                await self._ask(http, job)

    async def _ask(self, http: httpx.AsyncClient, job: Seen) -> None:
        where: str | None = None
        after = "0"
        texts: dict[int, str] = {}
        while job.ended is None:
            url, began = self._url(), time.monotonic()
            try:
                if job.request.mode == "stream":
                    async with self._stream(http, url, job, where, after) as answer:
                        where = answer.headers.get("location", where)
                        if answer.status_code != 200:
                            await answer.aread()
                            await self._refused(job, answer, began)
                            continue
                        job.accepted = job.accepted or time.monotonic()
                        async for event_id, event, data in _events(answer):
                            after = event_id or after
                            if event == "token":
                                texts[data["index"]] = texts.get(data["index"], "") + data["text"]
                            else:
                                self._end(job, event, data, texts)
                    continue
                if where is None:
                    answer = await self._post(http, url, job)
                    where = answer.headers.get("location") if answer.status_code == 202 else None
                    if where is not None:
                        job.accepted = job.accepted or time.monotonic()
                        continue
                else:
                    answer = await http.get(url + where)
                if answer.status_code != 200:
                    await self._refused(job, answer, began)
                elif where is None:
                    self._end(job, "done", answer.json(), {})
                elif (state := answer.json()["state"]) in ("queued", "running"):
                    await asyncio.sleep(_AGAIN_S)
                else:
                    self._end(job, state, answer.json().get("result") or answer.json().get("error"), {})
            except httpx.TransportError as error:
                job.faults.append(type(error).__name__)
                await asyncio.sleep(_AGAIN_S)

    def _end(self, job: Seen, state: str, content: Any, texts: dict[int, str]) -> None:
        job.accepted = job.accepted or time.monotonic()
        job.ended = time.monotonic()
        if state != "done":
            job.problem = str(content.get("type", state) if isinstance(content, dict) else state)
            return
        job.result = content
        for index, text in texts.items():
            if text != content["results"][index]["text"]:
                job.problem = f"its stream reported {text!r}, its result {content['results'][index]['text']!r}"
                job.result = None

    async def _refused(self, job: Seen, answer: httpx.Response, began: float) -> None:
        """503 and 429 are tried again; whatever else is the job's end."""
        match answer.status_code:
            case 503:
                self.refusals.append((began, time.monotonic()))
                await asyncio.sleep(_AGAIN_S)
            case 429:
                await asyncio.sleep(float(answer.headers["retry-after"]))
            case _:
                self._end(job, "failed", answer.json(), {})
        job.faults.append(str(answer.status_code))

    async def _post(self, http: httpx.AsyncClient, url: str, job: Seen) -> httpx.Response:
        return await http.post(url + job.request.path, json=job.request.body, headers=_headers(job))

    def _stream(self, http: httpx.AsyncClient, url: str, job: Seen, where: str | None, after: str) -> Any:
        if where is None:
            return http.stream("POST", url + job.request.path, json=job.request.body, headers=_headers(job))
        return http.stream("GET", f"{url}{where}/events", headers={"Last-Event-ID": after})


def _session() -> httpx.AsyncClient:
    """One for each client: a pool of hundreds of connections is looked through at every request."""
    # Idle connections go sooner than a gateway closes them: it must not close one that is just being used.
    limits = httpx.Limits(keepalive_expiry=2.0)
    timeout = httpx.Timeout(_PATIENCE_S, connect=5.0)
    return httpx.AsyncClient(timeout=timeout, transport=_Transport(limits=limits, verify=_NO_TLS), trust_env=False)


class _Transport(httpx.AsyncHTTPTransport):
    """A connection that is reset as soon as it is made has no socket under uvloop, which anyio does not expect."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except AttributeError as error:
            if error.name != "getpeername":
                raise
            raise httpx.ConnectError("reset at once", request=request) from error


def _headers(job: Seen) -> dict[str, str]:
    wish = {"Prefer": "respond-async"} if job.request.mode == "return" else {}
    return {"Idempotency-Key": job.key} | wish


async def _events(answer: httpx.Response) -> AsyncGenerator[tuple[str, str, Any]]:
    """(id, event, data) of server-sent events."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield fields.get("id", ""), fields["event"], json.loads(fields["data"])
            fields = {}


class Account:
    """What became of the jobs."""

    def __init__(self, jobs: Iterable[Seen], expected: dict[str, Any]) -> None:
        self.jobs = list(jobs)
        self.accepted = [job for job in self.jobs if job.accepted is not None]
        self.lost = [job for job in self.jobs if job.ended is None]
        self.failed = Counter(job.problem for job in self.jobs if job.ended is not None and job.result is None)
        self.wrong = [job for job in self.jobs if job.result is not None and job.result != expected[repr(job.request)]]
        self.faults = Counter(fault for job in self.jobs for fault in job.faults)

    def recovery_s(self, moment: float) -> float:
        """From the fault until the last of the jobs that were in flight then had ended."""
        ends = [job.ended for job in self.jobs if job.sent <= moment and job.ended is not None and job.ended > moment]
        return max(ends, default=moment) - moment


def left_behind(redis_url: str) -> dict[str, Any]:
    """What Redis still counts when all has ended: empty when nothing was lost or counted twice.

    A job may have ended before a second message of it was taken, which then finds nothing to run (contract/wire.py).
    Messages alone are given some time to go.
    """
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        until = time.monotonic() + _MESSAGES_S
        while (found := _found(client)) and found.keys() <= set(wire.QUEUES.values()) and time.monotonic() < until:
            time.sleep(0.1)
        return found


def _found(client: Any) -> dict[str, Any]:
    keys = wire.OPEN, wire.LEASES, *wire.WAITING.values(), *wire.QUEUES.values()
    found: dict[str, Any] = {key: "is there" for key in keys if client.exists(key)}
    load = client.hgetall(wire.LOAD)
    found |= {f"{wire.LOAD} {name}": value for name, value in load.items() if value != "0"}
    for key in client.scan_iter(wire.job("*"), count=1000):
        job_id = key.removeprefix(wire.job(""))
        state = client.hget(key, "state")
        if state in ("queued", "running") or not client.exists(wire.result(job_id)):
            found[key] = state
        reported = [fields["event"] for _, fields in client.xrange(wire.events(job_id))]
        ends = [event for event in reported if event != "token"]
        if reported and ends != [state]:
            found[key] = f"{state}, but its stream ended {ends}"
    return found
