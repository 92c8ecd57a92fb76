"""`neuron jobs`: list the jobs that brought down every worker that ran them, run them again or remove them."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, cast

import click
import redis

from api.settings import ApiSettings
from cli.groups import Group
from contract import dead_letters, redis_clients, wire
from contract.dead_letters import DeadLetter


@click.group(cls=Group)
def jobs() -> None:
    """Jobs that were given up because every worker that ran them died."""


@jobs.command("dead")
def dead() -> None:
    """List them: id, kind, deliveries and when the last one was given up, in UTC."""
    with _client() as client:
        for letter in _letters(client):
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(letter.at))
            click.echo(f"{letter.id}  {letter.record['kind']:10} {letter.record['attempts']:>3}  {at}")


@jobs.command("retry")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
def retry(job_ids: tuple[str, ...], every: bool) -> None:
    """Queue jobs again under the same id, with as much time as they had."""
    with _client() as client:
        for letter in _chosen(client, job_ids, every):
            script, keys, arguments = dead_letters.retry(letter)
            queued = client.eval(script, len(keys), *keys, *cast(Any, arguments))
            click.echo(f"{letter.id} {'is queued' if queued else 'was taken by somebody else'}")


@jobs.command("drop")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
def drop(job_ids: tuple[str, ...], every: bool) -> None:
    """Forget jobs and their texts. They stay failed."""
    with _client() as client:
        for letter in _chosen(client, job_ids, every):
            client.lrem(wire.DEAD, 1, cast(Any, letter.raw))
            click.echo(f"{letter.id} is dropped")


@contextlib.contextmanager
def _client() -> Iterator["redis.Redis"]:
    settings = ApiSettings()
    try:
        with redis_clients.client(settings.redis_url, socket_connect_timeout=5, socket_timeout=10) as client:
            yield client
    except redis.RedisError as error:
        where = settings.effective()["NEURON_REDIS_URL"]
        raise click.ClickException(f"Redis at {where} (NEURON_REDIS_URL): {error}") from error


def _letters(client: "redis.Redis") -> list[DeadLetter]:
    """The last that was given up first."""
    return [dead_letters.read(raw) for raw in cast(list[bytes], client.lrange(wire.DEAD, 0, -1))]


def _chosen(client: "redis.Redis", job_ids: tuple[str, ...], every: bool) -> list[DeadLetter]:
    if bool(job_ids) == every:
        raise click.UsageError("name jobs by their ids, or all of them with --all")
    letters = _letters(client)
    unknown = set(job_ids) - {letter.id for letter in letters}
    if unknown:
        raise click.ClickException(f"not among the dead jobs: {', '.join(sorted(unknown))}")
    return [letter for letter in letters if every or letter.id in job_ids]
