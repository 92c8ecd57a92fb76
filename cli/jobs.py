"""`neuron jobs`: the jobs that brought down every worker that ran them, to look at, run again or forget."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import click
import redis

from api.settings import ApiSettings
from contract import wire
from contract.jobs import Priority

# KEYS: the dead jobs, then the record, result, stream and cancellation of this one, then open, load, the waiting jobs
# and the queue. ARGV: the entry, id, texts, bytes, then the record. Answers 0 if the entry is not there any more.
_RETRY = (
    wire.LUA_MESSAGES
    + """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
redis.call('HSET', KEYS[2], 'created', now, unpack(ARGV, 5))
redis.call('HSET', KEYS[6], ARGV[2], ARGV[3] .. ':' .. ARGV[4])
redis.call('HINCRBY', KEYS[7], 'texts', ARGV[3])
redis.call('HINCRBY', KEYS[7], 'bytes', ARGV[4])
redis.call('ZADD', KEYS[8], now, ARGV[2])
send(KEYS[9], {ARGV[2]}, ARGV[2] .. '.' .. now, 'LPUSH')
return 1
"""
)
_KEPT = ("kind", "priority", "timeout_s", "encoding", "abandon", "body")


@dataclass(frozen=True)
class _Dead:
    """An entry of the list: what it says, and the bytes that it is found by."""

    raw: bytes
    id: str
    at: float
    cost: str  # texts:bytes
    record: dict[str, str]


@click.group()
def jobs() -> None:
    """Jobs that were given up because every worker that ran them died."""


@jobs.command("dead")
def dead() -> None:
    """List them: id, kind, deliveries and when the last one was given up, in UTC."""
    with _client() as client:
        for entry in _entries(client):
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.at))
            click.echo(f"{entry.id}  {entry.record['kind']:10} {entry.record['attempts']:>3}  {at}")


@jobs.command("retry")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
def retry(job_ids: tuple[str, ...], every: bool) -> None:
    """Queue jobs anew under the same id, with as much time as they had."""
    with _client() as client:
        for entry in _chosen(client, job_ids, every):
            record = {name: entry.record[name] for name in _KEPT} | {"state": "queued"}
            priority = cast(Priority, entry.record["priority"])
            keys = (
                wire.DEAD,
                wire.job(entry.id),
                wire.result(entry.id),
                wire.events(entry.id),
                wire.cancel(entry.id),
                wire.OPEN,
                wire.LOAD,
                wire.WAITING[priority],
                wire.QUEUES[priority],
            )
            fields = [part for item in record.items() for part in item]
            queued = client.eval(_RETRY, len(keys), *keys, entry.raw, entry.id, *entry.cost.split(":"), *fields)
            click.echo(f"{entry.id} {'is queued' if queued else 'was taken by somebody else'}")


@jobs.command("drop")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
def drop(job_ids: tuple[str, ...], every: bool) -> None:
    """Forget jobs and their texts. They stay failed."""
    with _client() as client:
        for entry in _chosen(client, job_ids, every):
            client.lrem(wire.DEAD, 1, cast(Any, entry.raw))
            click.echo(f"{entry.id} is dropped")


@contextlib.contextmanager
def _client() -> Iterator["redis.Redis"]:
    url = ApiSettings().redis_url
    try:
        with redis.Redis.from_url(str(url), socket_connect_timeout=5, socket_timeout=10) as client:
            yield client
    except redis.RedisError as error:
        raise click.ClickException(f"Redis at {url.host}:{url.port} (NEURON_REDIS_URL): {error}") from error


def _entries(client: "redis.Redis") -> list[_Dead]:
    """The last that was given up first."""
    found = []
    for raw in cast(list[bytes], client.lrange(wire.DEAD, 0, -1)):
        entry = json.loads(raw)
        pairs = entry["record"]
        found.append(
            _Dead(raw, entry["id"], entry["at"], entry["cost"], dict(zip(pairs[::2], pairs[1::2], strict=True)))
        )
    return found


def _chosen(client: "redis.Redis", job_ids: tuple[str, ...], every: bool) -> list[_Dead]:
    if bool(job_ids) == every:
        raise click.UsageError("name jobs by their ids, or all of them with --all")
    entries = _entries(client)
    unknown = set(job_ids) - {entry.id for entry in entries}
    if unknown:
        raise click.ClickException(f"not among the dead jobs: {', '.join(sorted(unknown))}")
    return [entry for entry in entries if every or entry.id in job_ids]
