"""`neuron bench soak`: does a service under steady mixed load hold on to anything that it should let go?

Clients classify, featurize, read streams, leave streams, cancel jobs and come back for results, while two models take
turns as `LATEST`. Meanwhile memory, threads, file descriptors and sockets of gateway and worker are sampled, with keys,
memory, clients and subscriptions of Redis. What Redis keeps for a while (results, records) is made to expire within
`_KEPT_S`, so that a run of minutes comes to rest where a real one does after a day; a key without an end stays.

A straight line is fitted to each series over the second half. It is flat if the line rises by less than `_BAR` of the
mean, or by a few where threads and connections are counted, plus twice the standard deviation around it.
"""

import http.client
import itertools
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import redis
import torch

from benchmarks import report
from benchmarks.service_stack import Stack, start_stack
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.heads.classifier import Head
from model.heads.unit import Calibration
from model.network.language_model import Architecture, LanguageModel

_CLIENTS = 12
_PACE_S = 1.5  # between the starts of a client's requests: what is kept must not grow with the machine's spare time
_KEPT_S = 20
_RELOAD_S = 7.0
_BAR = 0.02
_FEW = 2.5  # threads, descriptors and connections: pools are as large as the busiest moment so far
_UNITS = 64
_WORDS = ("a", "the", "film", "was", "good", "bad", "never", "again", "loved", "it", "slow", "brilliant")


@dataclass(frozen=True)
class Line:
    """A series over the second half of the run: mean, rise of the fitted line, and the most that it may rise."""

    mean: float
    rise: float
    allowed: float

    @property
    def flat(self) -> bool:
        return self.rise <= self.allowed


def fit(times_s: list[float], values: list[float], least: float = 0.0) -> Line:
    """The second half of a series, by the times of its samples. least: that it may rise by, beside the noise."""
    times, series = np.array(times_s), np.array(values, dtype=np.float64)
    half = times >= (times[0] + times[-1]) / 2
    times, series = times[half], series[half]
    slope, start = np.polyfit(times, series, 1)
    around = float(np.std(series - (slope * times + start)))
    mean = float(series.mean())
    return Line(mean, float(slope * (times[-1] - times[0])), max(_BAR * mean, least) + 2 * around)


@click.command()
@click.option("--minutes", default=10.0, show_default=True, help="Of load; the first half is warming up.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def soak(minutes: float, path: Path | None) -> None:
    """Run a service under mixed load and see whether memory, threads, descriptors and keys stay flat; else exit 1."""
    if sys.platform != "linux":
        raise click.ClickException("processes are looked at through /proc, which only Linux has")
    with tempfile.TemporaryDirectory() as name, start_stack() as stack:
        volume = Path(name)
        models = [_publish(volume, step) for step in (1, 2)]
        stack.environment |= {
            "NEURON_CHECKPOINT_DIR": str(volume),
            "NEURON_WORKER_POLL_S": "0.5",
            "NEURON_WORKER_PREFIX_CACHE_MB": "4",  # full soon
            "NEURON_WORKER_RESULT_TTL_S": str(_KEPT_S),
        }
        stack.add_worker()
        with _load(stack, models) as ended:
            samples = _watch(stack, 60 * minutes)
    times = samples.pop("seconds")
    lines = {name: fit(times, values, 0.0 if name.endswith("MiB") else _FEW) for name, values in samples.items()}
    click.echo(f"{'second half':28} {'mean':>10} {'rise':>10} {'allowed':>10}")
    for series, line in lines.items():
        verdict = "flat" if line.flat else "RISES"
        click.echo(f"{series:28} {line.mean:10.1f} {line.rise:10.2f} {line.allowed:10.2f}  {verdict}")
    click.echo(f"{sum(ended.values()):,} requests: " + ", ".join(f"{count:,} {how}" for how, count in ended.items()))
    found = {
        "minutes": minutes,
        "requests": dict(ended),
        "second_half": {series: vars(line) | {"flat": line.flat} for series, line in lines.items()},
        "samples": len(times),
        "machine": report.machine(torch.device("cpu")),
    }
    report.write(path, found)
    rising = [series for series, line in lines.items() if not line.flat]
    if rising:
        raise click.ClickException(f"not flat: {', '.join(rising)}")
    if ended["failed"]:
        raise click.ClickException(f"{ended['failed']} requests failed")


def _publish(volume: Path, step: int) -> Path:
    """A random model with a sentiment unit and a head."""
    model = LanguageModel(Architecture("mlstm", _UNITS, embedding_size=16))
    model.reset(torch.Generator().manual_seed(step))
    head = Head(["negative", "positive"], {unit: [0.1] for unit in range(_UNITS)}, [0.0])
    calibration = Calibration(0, 1, 0.0, 1.0)
    manifest = Manifest("soak", step, model.architecture, 0, None, {}, calibration, {"sentiment": head})
    return volumes.publish(volume, model, manifest, torch.float32)


@contextmanager
def _load(stack: Stack, models: list[Path]) -> Iterator["Counter[str]"]:
    """Clients and reloads, until the end of the block; counts how requests ended."""
    stop, ended = threading.Event(), Counter[str]()

    def reload() -> None:
        for directory in itertools.cycle(models):
            volumes.make_latest(directory)
            ended["reloaded"] += 1
            if stop.wait(_RELOAD_S):
                return

    threads = [threading.Thread(target=_client, args=(stack, seed, stop, ended)) for seed in range(_CLIENTS)]
    threads.append(threading.Thread(target=reload))
    for thread in threads:
        thread.start()
    try:
        yield ended
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _client(stack: Stack, seed: int, stop: threading.Event, ended: "Counter[str]") -> None:
    draw = random.Random(seed)  # noqa: S311 # nosec B311 - not a secret
    ways = [_answered, _answered, _read_stream, _left_stream, _cancelled, _returned]
    connection: http.client.HTTPConnection | None = None
    turn = time.monotonic() + draw.uniform(0, _PACE_S)
    while not stop.wait(max(0.0, turn - time.monotonic())):
        turn = max(turn + _PACE_S, time.monotonic())
        way = draw.choice(ways)
        connection = connection or http.client.HTTPConnection(*stack.address, timeout=120)
        try:
            ended[way(connection, draw)] += 1
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            ended["failed"] += 1
            click.echo(f"{way.__name__}: {error!r}", err=True)
            connection.close()
        if way is _left_stream or draw.random() < 0.05:  # others keep theirs for some requests
            connection.close()
            connection = None
    if connection is not None:
        connection.close()


def _post(
    connection: http.client.HTTPConnection, path: str, body: dict[str, Any], headers: dict[str, str], expected: int
) -> http.client.HTTPResponse:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"} | headers)
    answer = connection.getresponse()
    if answer.status != expected:
        raise ValueError(f"{path} answered {answer.status}: {answer.read()[:300]!r}")
    return answer


def _text(draw: random.Random) -> str:
    return " ".join(draw.choice(_WORDS) for _ in range(draw.randint(2, 60)))


def _generate(draw: random.Random, stream: bool) -> dict[str, Any]:
    length = draw.randint(20, 800)
    return {"prompt": _text(draw), "length": length, "stop": [], "seed": draw.randrange(2**32), "stream": stream}


def _answered(connection: http.client.HTTPConnection, draw: random.Random) -> str:
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/classify", {"texts": [_text(draw) for _ in range(8)]}),
        ("/featurize", {"text": _text(draw)}),
        ("/trace", {"text": _text(draw)}),
        ("/generate", _generate(draw, stream=False)),
    ]
    path, body = draw.choice(bodies)
    _post(connection, path, body, {}, 200).read()
    return "answered"


def _read_stream(connection: http.client.HTTPConnection, draw: random.Random) -> str:
    received = _post(connection, "/generate", _generate(draw, stream=True), {}, 200).read()
    if b"event: done" not in received:
        raise ValueError("a stream ended early")
    return "streams read"


def _left_stream(connection: http.client.HTTPConnection, draw: random.Random) -> str:
    body = _generate(draw, stream=True) | {"length": 10_000}
    _post(connection, "/generate", body, {}, 200).read(100)
    return "streams left"


def _job(connection: http.client.HTTPConnection, draw: random.Random) -> str:
    body, headers = _generate(draw, stream=False), {"Prefer": "respond-async", "Idempotency-Key": str(draw.random())}
    answer = _post(connection, "/generate", body, headers, 202)
    answer.read()
    return answer.headers["Location"]


def _cancelled(connection: http.client.HTTPConnection, draw: random.Random) -> str:
    connection.request("DELETE", _job(connection, draw))
    connection.getresponse().read()
    return "cancelled"


def _returned(connection: http.client.HTTPConnection, draw: random.Random) -> str:
    job = _job(connection, draw)
    while True:
        connection.request("GET", job)
        state = json.load(connection.getresponse())["state"]
        if state not in ("queued", "running"):
            return "returned for"
        time.sleep(0.1)


def _watch(stack: Stack, seconds: float) -> dict[str, list[float]]:
    """Series of samples, by name; `seconds` has their times."""
    series: dict[str, list[float]] = {}
    began = time.monotonic()
    every = max(0.5, min(5.0, seconds / 60))
    with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as client:
        for number in itertools.count(1):
            sample = {"seconds": time.monotonic() - began} | _of_redis(client)
            for name, process in stack.children.processes.items():
                if name != "redis":  # that is the Python process around it
                    sample |= {f"{name} {what}": value for what, value in _of_process(process.pid).items()}
            for name, value in sample.items():
                series.setdefault(name, []).append(value)
            stack.children.check()
            if number * every > seconds:
                return series
            time.sleep(max(0.0, began + number * every - time.monotonic()))
    raise AssertionError


def _of_process(pid: int) -> dict[str, float]:
    descriptors = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            descriptors.append(str(entry.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return {
        "RSS MiB": resident,
        "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
        "descriptors": len(descriptors),
        "sockets": sum(target.startswith("socket:") for target in descriptors),
    }


def _of_redis(client: "redis.Redis") -> dict[str, float]:
    """Also lets everything that will expire do so soon."""
    keys = list(client.scan_iter(count=1000))
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.ttl(key)
        for key, ttl_s in zip(keys, pipeline.execute(), strict=True):
            if ttl_s > _KEPT_S:
                pipeline.expire(key, _KEPT_S)
        pipeline.execute()
    info: Callable[[str], Any] = client.info
    clients = info("clients")
    return {
        "Redis keys": len(keys),
        "Redis MiB": info("memory")["used_memory"] / 2**20,
        "Redis clients": clients["connected_clients"],
        "Redis blocked clients": clients["blocked_clients"],
        "Redis subscriptions": clients["pubsub_clients"] if "pubsub_clients" in clients else _subscriptions(client),
    }


def _subscriptions(client: "redis.Redis") -> int:
    return len(client.pubsub_channels()) + int(client.pubsub_numpat())
