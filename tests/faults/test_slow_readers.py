"""Clients that open streams and read nothing: they cost the gateway little, and nobody else waits."""

import itertools
import json
import socket
import time
from pathlib import Path

import redis

from contract import wire
from tests.conftest import Stack, run_stack, wait_until
from tests.faults.conftest import Accounted
from tests.faults.figures import rss_mib
from tests.faults.load import CALM_S, Load, mixed

STREAMS = 100
LENGTH = 50_000


def _connect(stack: Stack) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)  # the kernel doubles it
    client.connect(("127.0.0.1", int(stack.environment["NEURON_API_PORT"])))
    return client


def _ask_and_read_nothing(stack: Stack, seed: int) -> socket.socket:
    body = {"prompt": "I", "length": LENGTH, "stop": [], "seed": seed, "n": 1, "stream": True}
    content = json.dumps(body).encode()
    client = _connect(stack)
    head = ["POST /generate HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    client.sendall("\r\n".join([*head, "", ""]).encode() + content)
    return client


def test_streams_that_nobody_reads_harm_nobody(tiny_volume: Path, tmp_path: Path, accounted: Accounted) -> None:
    settings = {"NEURON_CHECKPOINT_DIR": str(tiny_volume), "NEURON_API_MAX_LENGTH": str(LENGTH)}
    with run_stack(tmp_path, **settings) as stack:
        redis_url = stack.environment["NEURON_REDIS_URL"]
        gateway = stack.processes["api"].pid
        with Load([stack.url], mixed()) as load, redis.Redis.from_url(redis_url, decode_responses=True) as server:

            def unread() -> list[str]:
                """The ids of the jobs whose streams nobody reads, as long as they run."""
                keys = list(server.scan_iter(wire.job("*"), count=1000))
                bodies = [server.hget(key, "body") or "" for key in keys]
                mine = f'"length":{LENGTH},'
                return [key.removeprefix(wire.job("")) for key, body in zip(keys, bodies, strict=True) if mine in body]

            def written() -> int:
                return sum(server.xlen(wire.events(job_id)) for job_id in unread())

            time.sleep(CALM_S)
            before = rss_mib(gateway)
            moment = time.monotonic()
            clients = [_ask_and_read_nothing(stack, seed) for seed in range(STREAMS)]
            try:
                wait_until(lambda: len(unread()) == STREAMS, what="the streams' jobs")
                wait_until(lambda: written() > STREAMS, what="long streams")
                some = written()
                wait_until(lambda: written() > 2 * some, what="more, although nobody reads it")
                grown = rss_mib(gateway) - before
                wait_until(lambda: load.ended_since(moment) > 20, what="the end of others, which wait for no reader")
                assert len(unread()) == STREAMS
            finally:
                for client in clients:
                    client.close()
            wait_until(lambda: not unread(), what="the end of the jobs that were left")
        assert grown < STREAMS * 0.25, f"the gateway grew by {grown:.0f} MiB"
        accounted("100 clients that read nothing of 50,000 characters", load, redis_url, moment)


def test_what_nobody_reads_stays_in_redis(tmp_path: Path) -> None:
    """Events of 10 MB, for 20 clients of which none takes them."""
    with run_stack(tmp_path, worker=False) as stack, stack.client() as client:
        posted = client.post("/generate", json={"prompt": "I", "stream": True}, headers={"Prefer": "respond-async"})
        where = posted.headers["location"]
        with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as server, server.pipeline() as pipeline:
            data = json.dumps({"index": 0, "text": "x" * 1000})
            for _ in range(10_000):
                pipeline.xadd(wire.events(where.removeprefix("/jobs/")), {"event": "token", "data": data})
            pipeline.execute()
        gateway = stack.processes["api"].pid
        before = rss_mib(gateway)
        readers = [_connect(stack) for _ in range(20)]
        try:
            for reader in readers:
                reader.sendall(f"GET {where}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            for reader in readers:
                assert reader.recv(12) == b"HTTP/1.1 200"
            time.sleep(3)
            # 64 KiB wait in each connection, and the entries of one look before them.
            assert rss_mib(gateway) - before < 40
            with client.stream("GET", where + "/events") as stream:
                lines = itertools.islice(stream.iter_lines(), 40_000)
                tokens = sum(line == "event: token" for line in lines)
            assert tokens == 10_000
        finally:
            for reader in readers:
                reader.close()
