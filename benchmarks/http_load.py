"""`python -m benchmarks.http_load`: clients of the service, in a process of their own so that they slow nothing else.

Reads a `Load` as JSON from standard input and writes what its clients saw, a `Seen`, as JSON to standard output.
Every client has one connection that it keeps, and sends its next request when the last one is answered. HTTP is read
by hand, just as much of it as the gateway speaks: a full client library would cost more than the gateway itself.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal

import uvloop

from benchmarks.windows import counted

Kind = Literal["classify", "featurize", "embeddings", "generate", "bulk"]


@dataclass(frozen=True)
class Load:
    """kind: how requests are made: `generate` as a stream, `bulk` classifies as jobs, the others in place.

    `embeddings` are those of OpenAI's API.
    """

    host: str
    port: int
    kind: Kind
    clients: int
    seconds: float  # no request begins later
    bodies: list[str]  # JSON, taken in turn
    warm_up_s: float = 0.0  # what happens before does not count


@dataclass
class Seen:
    """Times in milliseconds, by the clients' clock."""

    bodies: list[int] = field(default_factory=list)  # of every request that counts: the index of its body
    ms: list[float] = field(default_factory=list)  # and how long it took
    window_s: float = 0.0  # in which these requests ended; generate: until the last had
    first_ms: list[float] = field(default_factory=list)  # generate: until the first characters of each stream
    between_ms: list[float] = field(default_factory=list)  # generate: between two events of characters
    characters: int = 0  # generate


class _Client:
    def __init__(self, load: Load, turns: Iterator[int], ends: float, seen: Seen) -> None:
        self._load = load
        self._turns = turns
        self._ends = ends
        self._seen = seen
        self.requests: list[tuple[int, float, float]] = []  # (index of the body, when it began, when it ended)
        self._bodies = [body.encode() for body in load.bodies]

    async def run(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._load.host, self._load.port)
        ask = {"generate": self._generate, "bulk": self._bulk}.get(self._load.kind, self._in_place)
        try:
            while time.perf_counter() < self._ends:
                turn = next(self._turns) % len(self._bodies)
                began = time.perf_counter()
                await ask(self._bodies[turn])
                self.requests.append((turn, began, time.perf_counter()))
        finally:
            self._writer.close()

    async def _in_place(self, body: bytes) -> None:
        kind = self._load.kind
        await self._send(f"POST {'/v1/embeddings' if kind == 'embeddings' else f'/{kind}'}", body)
        await self._answer(200)

    async def _bulk(self, body: bytes) -> None:
        await self._send("POST /classify", body, "Prefer: respond-async\r\n")
        job = json.loads(await self._answer(202))["id"]
        await self._send(f"GET /jobs/{job}/events", b"")
        async for event, data, _ in self._events():
            if event != "done":
                raise RuntimeError(f"a bulk job ended as {event}: {data[:300]}")

    async def _generate(self, body: bytes) -> None:
        began = last = time.perf_counter()
        await self._send("POST /generate", body)
        first = True
        async for event, data, now in self._events():
            if event == "token":
                (self._seen.first_ms if first else self._seen.between_ms).append(1000 * (now - last))
                first, last = False, now
                self._seen.characters += len(json.loads(data)["text"])
            elif event != "done":
                raise RuntimeError(f"a stream ended as {event} after {now - began:.1f} s: {data[:300]}")

    async def _send(self, line: str, body: bytes, headers: str = "") -> None:
        head = (
            f"{line} HTTP/1.1\r\nHost: {self._load.host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{headers}\r\n"
        )
        self._writer.write(head.encode() + body)
        await self._writer.drain()

    async def _head(self) -> tuple[int, dict[str, str]]:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return int(lines[0].split(" ")[1]), headers

    async def _answer(self, expected: int) -> bytes:
        status, headers = await self._head()
        body = await self._reader.readexactly(int(headers["content-length"]))
        if status != expected:
            raise RuntimeError(f"the service answered {status}, not {expected}: {body[:300].decode()}")
        return body

    async def _events(self) -> AsyncIterator[tuple[str, str, float]]:
        """(event, data, when it came) of a stream of server-sent events, in chunked transfer coding."""
        status, headers = await self._head()
        if status != 200:
            body = await self._reader.readexactly(int(headers["content-length"]))
            raise RuntimeError(f"the service answered {status}, not 200: {body[:300].decode()}")
        event, rest = "", b""
        while size := int(await self._reader.readline(), 16):
            rest += (await self._reader.readexactly(size + 2))[:-2]
            now = time.perf_counter()
            *lines, rest = rest.split(b"\n")
            for line in lines:
                name, _, value = line.decode().partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    yield event, value, now
        await self._reader.readexactly(2)


async def drive(load: Load) -> Seen:
    """Raises RuntimeError at the first answer that is not the expected one."""
    began = time.perf_counter()
    seen, turns = Seen(), itertools.count()
    clients = [_Client(load, turns, began + load.seconds, seen) for _ in range(load.clients)]
    await asyncio.gather(*(client.run() for client in clients))
    requests = [request for client in clients for request in client.requests]
    done, seen.window_s = counted([ended - began for _, _, ended in requests], load.warm_up_s, load.seconds)
    seen.bodies = [requests[index][0] for index in done]
    seen.ms = [1000 * (requests[index][2] - requests[index][1]) for index in done]
    if load.kind == "generate":
        seen.window_s = time.perf_counter() - began  # every stream is read to its end
    return seen


def main() -> None:
    load = Load(**json.load(sys.stdin))
    try:
        seen = uvloop.run(drive(load))
    except (RuntimeError, OSError, asyncio.IncompleteReadError) as error:
        sys.exit(f"{load.kind} from {load.clients} clients: {error}")
    json.dump(asdict(seen), sys.stdout)


if __name__ == "__main__":
    main()
