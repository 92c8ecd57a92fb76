"""A TCP proxy before Redis that delays, stalls and cuts: what `tc netem` does, where a kernel lacks it.

A lost packet reaches an application as a pause until it is sent again, and all that follows waits behind it; so that is
how loss is played.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass

_RESEND_S = 0.2, 0.4  # Linux's least retransmission timeout, and once doubled
_CHUNK = 65_536


@dataclass
class Network:
    """What the connections through it meet from now on. Both ways, each."""

    port: int = 0
    delay_s: float = 0.0
    jitter_s: float = 0.0  # the delay is this much more or less
    loss: float = 0.0  # share of chunks that are sent again
    held: bool = False  # nothing passes, and nobody hears of it; looked at now and then
    passed: int = 0  # bytes

    def __post_init__(self) -> None:
        self._random = random.Random(0)  # noqa: S311 - not a secret
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()

    def cut(self) -> None:
        """Reset every connection."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, to_port: int, ready: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(lambda *ends: self._connect(to_port, *ends), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        self._cut()

    async def _connect(self, to_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", to_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        finally:
            for end in (writer, far_writer):
                end.transport.abort()
                self._writers.discard(end)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction. A delay holds up no later chunk's sending, only its arrival before it."""
        loop, chunks = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

        async def arrive() -> None:
            while True:
                due, chunk = await chunks.get()
                await asyncio.sleep(due - loop.time())
                while self.held:  # noqa: ASYNC110 - set from another thread
                    await asyncio.sleep(0.02)
                self.passed += len(chunk)
                writer.write(chunk)
                if not chunk:
                    return
                await writer.drain()

        arriving = asyncio.create_task(arrive())
        try:
            with contextlib.suppress(OSError):
                while chunk := await reader.read(_CHUNK):
                    chunks.put_nowait((loop.time() + self._delay(), chunk))
                chunks.put_nowait((loop.time() + self._delay(), b""))
                await arriving
        finally:
            arriving.cancel()
            writer.transport.abort()

    def _delay(self) -> float:
        delay_s = self.delay_s + self._random.uniform(-self.jitter_s, self.jitter_s)
        return delay_s + (self._random.uniform(*_RESEND_S) if self._random.random() < self.loss else 0.0)


@contextlib.contextmanager
def network(to_port: int) -> Iterator[Network]:
    """A proxy on `Network.port` to a port of this machine, in a thread of its own."""
    proxy, ready, stop = Network(), threading.Event(), asyncio.Event()
    loop = proxy._loop
    thread = threading.Thread(target=loop.run_until_complete, args=(proxy.serve(to_port, ready, stop),), name="network")
    thread.start()
    ready.wait(180)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()
