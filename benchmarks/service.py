"""`neuron bench service`: what HTTP, Redis and Celery add to the engine's own time, and take from its throughput.

The engine's own figures come from the same model and settings in this process, while the service is idle, before and
after it is driven. Clients, gateway, Redis and worker share this machine's cores, so a throughput beside the engine's
own also pays for the clients.

Two workers are held beside one, each kept on a core of its own.
"""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import report
from benchmarks.http_load import Kind, Load, Seen
from benchmarks.own_engine import CLIENTS, PROMPT, STREAM_BYTES, STREAMS, TEXTS_A_REQUEST, own_engine, percentiles
from benchmarks.service_stack import Stack, start_stack
from benchmarks.simulated_workers import MODEL
from contract import children
from texts.reader import read_file

_EXAMPLES = Path(__file__).parent.parent / "examples" / "reviews.txt"
_EMBEDDED = 16  # texts of a request for features
_TURNS = 4
_IDLE_TEXTS = 100  # different ones, so that the time of each is known alone and through the service


@click.command()
@click.option(
    "--url",
    help="A running service with the model and settings that a worker started here would have, but for "
    "NEURON_WORKER_PREFIX_CACHE_MB=0; else one is started.",
)
@click.option(
    "--texts",
    "texts_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=_EXAMPLES,
    help="Sentences, in any format. Default: those of examples/.",
)
@click.option("--column", help="Of the sentences. Default: the only one.")
@click.option("--seconds", default=8.0, show_default=True, help="Of each load; all take some 15 times as long.")
@click.option("--simulated-workers", default=100, show_default=True, help="Workers that compute nothing; 0: leave out.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def service(
    url: str | None, texts_file: Path, column: str | None, seconds: float, simulated_workers: int, path: Path | None
) -> None:
    """Measure the service: latency added to the engine's, share of its throughput, streams, and the gateway's limit."""
    with read_file(texts_file) as records:
        field = records.text_field(column)
        texts = [text for chunk in records.chunks([field]) for text in chunk.columns[0] if text and text.strip()]
    if len(texts) < TEXTS_A_REQUEST:
        raise click.ClickException(f"{texts_file} holds {len(texts)} texts; the load needs {TEXTS_A_REQUEST} at least")
    found: dict[str, Any] = {"texts_file": texts_file.name, "texts": len(texts), "seconds": seconds}
    if url is not None:
        found |= measure(Stack(url), texts, seconds)
        found["two_workers"] = {"left_out": "the service was there already"}
    else:
        with start_stack() as stack:
            stack.add_worker()
            found |= measure(stack, texts, seconds)
        found["two_workers"] = _two_workers(texts, seconds)
        if simulated_workers:
            with start_stack() as stack:
                stack.add_simulated_workers(simulated_workers)
                found["simulated"] = _simulated(stack, texts, seconds, simulated_workers)
    found["machine"] = report.machine(torch.device("cpu"))
    click.echo(json.dumps(found, indent=1))
    report.write(path, found)


def measure(stack: Stack, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """All figures that need a real worker, as they are written."""
    with own_engine() as own:
        alone = [own.latencies_ms(texts[:_IDLE_TEXTS], seconds / 2)]
        rates = [own.texts_per_s(texts, seconds, seconds / 4)]
        characters = own.streams(seconds / 2)
        idle = _drive(stack, "classify", 1, _bodies(texts[:_IDLE_TEXTS], 1), seconds)
        with stack.cpu_use() as large_use:
            large = _drive(stack, "classify", CLIENTS, _bodies(texts, TEXTS_A_REQUEST), seconds, warm_up_s=seconds / 4)
        with stack.cpu_use() as small_use:
            small = _drive(stack, "classify", 256, _bodies(texts, 1), seconds, warm_up_s=seconds / 4)
        streams = _drive(stack, "generate", STREAMS, [_stream_body(seed) for seed in range(1000)], seconds)
        with _background(stack, "bulk", 16, _bodies(texts, TEXTS_A_REQUEST), seconds + 4) as bulk:
            time.sleep(min(2.0, seconds / 2))  # the bulk load must have filled the worker
            beside = _drive(stack, "classify", 1, _bodies(texts[:_IDLE_TEXTS], 1), seconds)
        alone.append(own.latencies_ms(texts[:_IDLE_TEXTS], seconds / 2))
        rates.append(own.texts_per_s(texts, seconds, seconds / 4))
    alone_ms = [statistics.mean(times) for times in zip(*alone, strict=True)]
    added = [ms - alone_ms[body] for body, ms in zip(idle.bodies, idle.ms, strict=True)]
    rate = statistics.mean(rates)
    return {
        "engine_latency_ms": percentiles(alone_ms),
        "idle_latency_ms": percentiles(idle.ms),
        "added_latency_ms": percentiles(added),
        "engine_texts_per_s": rate,
        "throughput_16_clients_64_texts": _throughput(large, TEXTS_A_REQUEST, rate) | {"cpu": large_use},
        "throughput_256_clients_1_text": _throughput(small, 1, rate) | {"cpu": small_use},
        "beside_bulk": {
            "bulk_texts_per_s": len(bulk.ms) * TEXTS_A_REQUEST / bulk.window_s,
            "interactive_latency_ms": percentiles(beside.ms),
            "p99_vs_idle": percentiles(beside.ms)["p99"] / percentiles(idle.ms)["p99"],
        },
        "streams": {
            "streams": STREAMS,
            "first_character_ms": percentiles(streams.first_ms),
            "between_events_ms": percentiles(streams.between_ms),
            "characters_per_s": streams.characters / streams.window_s,
            "engine": characters,
        },
    }


def _two_workers(texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """A worker kept on one core, then a second one beside it on another; all else runs on any core."""
    if not hasattr(os, "sched_setaffinity"):
        return {"left_out": "this system keeps no process on one core"}
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        return {"left_out": "there is one core"}
    bodies = _bodies(texts, TEXTS_A_REQUEST)
    found: list[dict[str, Any]] = []
    with start_stack() as stack:
        for core in cores:
            stack.add_worker(core)
            with stack.cpu_use() as use:
                seen = _drive(stack, "classify", CLIENTS, bodies, 2 * seconds, warm_up_s=seconds / 2)
            found.append(_throughput(seen, TEXTS_A_REQUEST) | {"cpu": use})
    one, two = found
    return {"one": one, "two": two, "ratio": two["texts_per_s"] / one["texts_per_s"]}


def _simulated(stack: Stack, texts: Sequence[str], seconds: float, workers: int) -> dict[str, Any]:
    found: dict[str, Any] = {"workers": workers}
    for clients, size in ((CLIENTS, TEXTS_A_REQUEST), (256, 1)):
        with stack.cpu_use() as use:
            seen = _drive(stack, "classify", clients, _bodies(texts, size), seconds, warm_up_s=seconds / 4)
        name = f"{clients}_clients_{size}_text" + ("s" if size > 1 else "")
        found[name] = _throughput(seen, size) | {"cpu": use, "limit": max(use, key=lambda part: use[part])}
    found["embeddings"] = _embeddings(stack, texts, seconds)
    return found


def _embeddings(stack: Stack, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """`POST /v1/embeddings` beside `/featurize`, of the same texts, in turn: the machine changes its speed."""
    of_openai = [json.dumps({"input": texts[:_EMBEDDED], "model": MODEL})]
    bodies: dict[Kind, list[str]] = {"featurize": _bodies(texts, _EMBEDDED)[:1], "embeddings": of_openai}
    rates: dict[Kind, list[float]] = {kind: [] for kind in bodies}
    for _ in range(_TURNS):
        for kind, own in bodies.items():
            seen = _drive(stack, kind, 4, own, seconds / _TURNS)
            rates[kind].append(_throughput(seen, _EMBEDDED)["texts_per_s"])
    found: dict[str, Any] = {f"{kind}_texts_per_s": statistics.mean(values) for kind, values in rates.items()}
    return found | {"ratio": found["embeddings_texts_per_s"] / found["featurize_texts_per_s"]}


def _drive(stack: Stack, kind: Kind, clients: int, bodies: list[str], seconds: float, warm_up_s: float = 0.0) -> Seen:
    return _seen(_clients(Load(*stack.address, kind, clients, seconds, bodies, warm_up_s)))


@contextmanager
def _background(stack: Stack, kind: Kind, clients: int, bodies: list[str], seconds: float) -> Iterator[Seen]:
    """A load beside what happens inside; what its clients saw is there at the end."""
    process = _clients(Load(*stack.address, kind, clients, seconds, bodies))
    seen = Seen()
    try:
        yield seen
        vars(seen).update(vars(_seen(process)))
    finally:
        process.kill()


def _clients(load: Load) -> subprocess.Popen[str]:
    command, environment = children.command("benchmarks.http_load"), children.environment(os.environ)
    pipe = subprocess.PIPE
    process = subprocess.Popen(  # noqa: S603 - our own module
        command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdin is not None  # noqa: S101
    json.dump(asdict(load), process.stdin)
    process.stdin.flush()
    process.stdin.close()
    process.stdin = None
    return process


def _seen(process: subprocess.Popen[str]) -> Seen:
    answer, log = process.communicate()
    if process.returncode != 0:
        raise click.ClickException(f"the load broke off: {log.strip()[-2000:]}")
    return Seen(**json.loads(answer))


def _throughput(seen: Seen, size: int, engine_rate: float | None = None) -> dict[str, Any]:
    rate = len(seen.ms) * size / seen.window_s
    found = {"texts_per_s": rate, "latency_ms": percentiles(seen.ms)}
    return found if engine_rate is None else found | {"share_of_engine": rate / engine_rate}


def _bodies(texts: Sequence[str], size: int) -> list[str]:
    return [json.dumps({"texts": texts[i : i + size]}) for i in range(0, len(texts) - size + 1, size)]


def _stream_body(seed: int) -> str:
    return json.dumps({"prompt": PROMPT, "length": STREAM_BYTES, "seed": seed, "stop": [], "stream": True})
