"""Ended jobs are posted to where their requests asked for it, signed as Standard Webhooks has it.

The specification: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md. A post is
repeated until it is answered with 2xx or 410, and reaches its receiver at least once: `webhook-id` tells repetitions.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx

from api import metrics
from api.http import answers
from api.redis.records import Records
from api.redis.webhook_queue import Post, WebhookQueue
from api.schemas.webhook import Webhook
from api.settings import ApiSettings
from api.stopping import stop

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_TIMEOUT_S = 15.0
# Before the next attempt, after each but the last: results are kept for an hour by default.
_PAUSES_S = (5.0, 30.0, 120.0, 600.0, 1800.0)
_MAX_BYTES = 2**20  # a longer result is left to be fetched
_PORTS = {"http": 80, "https": 443}
_AT_ONCE = 64  # posts
_OF_HOST = 16  # of them: a receiver that does not answer must not hold up the others
_NEXT_TURN_S = 2.0
_SUCCESS = range(200, 300)
_GONE = 410  # the receiver wants no more


def forbidden(url: str, hosts: Sequence[str]) -> str | None:
    """Why nothing may be posted there; None where it may. hosts: as the setting names them."""
    try:
        where = httpx.URL(url)
    except httpx.InvalidURL as error:
        return f"not a URL: {error}"
    if where.scheme not in ("http", "https") or not where.host:
        return "neither http://HOST/... nor https://HOST/..."
    if where.userinfo or where.fragment:
        return "names and fragments do not belong into it: the secret says whose it is"
    if not hosts:
        return "nothing is posted by this service: NEURON_API_WEBHOOK_HOSTS names no host"
    if any(_names(host, where) for host in hosts):
        return None
    port = "" if where.port is None else f":{where.port}"
    return f"{where.host[:253]}{port} is not among the hosts of NEURON_API_WEBHOOK_HOSTS"


def _names(allowed: str, where: httpx.URL) -> bool:
    before, _, after = allowed.lower().rpartition(":")
    host, port = (before, after) if after.isdigit() else (allowed.lower(), "")
    usual = _PORTS[where.scheme]
    if (int(port) if port else usual) != (where.port or usual):
        return False
    name = where.host.lower()
    return name.endswith(host[1:]) and len(name) > len(host[1:]) if host.startswith("*.") else name == host.strip("[]")


def signature(secret: str, message_id: str, sent_at: int, body: bytes) -> str:
    """Of the header `webhook-signature`. sent_at: Unix time in seconds."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{sent_at}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


class Poster:
    """`run` is its loop, which must run while there are webhooks."""

    def __init__(self, settings: ApiSettings, queue: WebhookQueue, records: Records) -> None:
        self._hosts = settings.webhook_hosts
        self._queue = queue
        self._records = records
        self._hosts_now: Counter[str] = Counter()  # of the posts that are under way
        # What the environment says of proxies counts. A redirection could lead to any host.
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False)

    async def run(self) -> None:
        """The loop. It does not end by itself."""
        async with self._client, asyncio.TaskGroup() as group:
            while True:
                begun = 0
                try:
                    for post in await self._queue.take(_AT_ONCE - self._hosts_now.total()):
                        webhook = Webhook.model_validate_json(post.webhook)
                        host = httpx.URL(webhook.url).host
                        if self._hosts_now[host] < _OF_HOST:
                            self._hosts_now[host] += 1
                            begun += 1
                            group.create_task(self._take_turn(post, webhook, host))
                        else:
                            await self._queue.later(post, _NEXT_TURN_S, tried=False)
                except Exception as error:  # noqa: BLE001 - a loop that ends would leave every job without its post
                    metrics.LISTENER_ERRORS.inc()
                    log.warning("ended jobs cannot be posted: %s", error)
                if not begun:  # nothing is due, or all that is waits for a receiver that is slow
                    await asyncio.sleep(_LOOK_S)

    async def _take_turn(self, post: Post, webhook: Webhook, host: str) -> None:
        try:
            await self._post(post, webhook, host)
        except Exception as error:  # noqa: BLE001 - it comes again when its claim has lapsed
            metrics.LISTENER_ERRORS.inc()
            log.warning("job %s cannot be posted: %s", post.job_id, error)
        finally:
            self._hosts_now -= Counter((host,))  # keeps no host at 0

    async def _post(self, post: Post, webhook: Webhook, host: str) -> None:
        """Post a job, and say in the queue how that ended."""
        body = await self._body(post.job_id)
        if body is None:  # it has expired
            return await self._end(post, "given-up", "its result has expired")
        if (failure := await self._sent(webhook, post.job_id, body)) is None:
            return await self._end(post, "delivered", None)
        if failure == str(_GONE) or post.attempt > len(_PAUSES_S):
            return await self._end(post, "given-up", f"{host}: {failure}")
        log.info("job %s was not taken by %s (%s), attempt %d", post.job_id, host, failure, post.attempt)
        metrics.WEBHOOKS.labels("failed").inc()
        await self._queue.later(post, _PAUSES_S[post.attempt - 1])
        return None

    async def _end(self, post: Post, how: str, why: str | None) -> None:
        if why is not None:
            log.warning("the post of job %s is given up after attempt %d: %s", post.job_id, post.attempt, why)
        metrics.WEBHOOKS.labels(how).inc()
        await self._queue.done(post.job_id)

    async def _sent(self, webhook: Webhook, job_id: str, body: bytes) -> str | None:
        """Why the receiver has not taken it: a status, or what failed; None where it has."""
        if (why := forbidden(webhook.url, self._hosts)) is not None:  # the setting has changed since
            return why
        sent_at = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "sentiment-neuron",
            "webhook-id": job_id,
            "webhook-timestamp": str(sent_at),
            "webhook-signature": signature(webhook.secret, job_id, sent_at, body),
        }
        try:
            async with (
                asyncio.timeout(_TIMEOUT_S),
                self._client.stream("POST", webhook.url, content=body, headers=headers) as answer,
            ):
                return None if answer.status_code in _SUCCESS else str(answer.status_code)
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            return type(error).__name__

    async def _body(self, job_id: str) -> bytes | None:
        """What is posted of the job; None where its result has expired."""
        record = await self._records.record(job_id)
        outcome = None if record is None else await self._records.outcome(job_id, record)
        if record is None or outcome is None:
            return None
        return await answers.encoded(record.kind, lambda: _message(answers.job(job_id, record, outcome)))


def _message(job: dict[str, Any]) -> bytes:
    sent = {"type": f"job.{job['state']}", "timestamp": datetime.now(UTC).isoformat(), "data": job}
    body = _encoded(sent)
    if len(body) > _MAX_BYTES:
        body = _encoded(sent | {"data": job | {"result": None, "result_bytes": len(_encoded(job["result"]))}})
    return body


def _encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@asynccontextmanager
async def open_poster(settings: ApiSettings, queue: WebhookQueue, records: Records) -> AsyncIterator[None]:
    """At work, unless no host is allowed."""
    if not settings.webhook_hosts:
        yield
        return
    running = asyncio.create_task(Poster(settings, queue, records).run())
    try:
        yield
    finally:
        await stop(running)
