"""The parts of the gateway that use Redis, opened and closed together; an endpoint takes those that it needs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request

from api.redis.admission import Admission
from api.redis.batch_leases import BatchLeases
from api.redis.fleet import Fleet
from api.redis.mailbox import Mailbox
from api.redis.publisher import Publisher
from api.redis.records import Records
from api.redis.redis_client import BLOCK_S, redis_client
from api.redis.streams import Streams
from api.redis.webhook_queue import WebhookQueue
from api.settings import ApiSettings
from api.stopping import stop


@dataclass(frozen=True)
class Parts:
    admission: Admission
    mailbox: Mailbox
    records: Records
    streams: Streams
    fleet: Fleet
    batch_leases: BatchLeases
    webhooks: WebhookQueue


@asynccontextmanager
async def open_parts(settings: ApiSettings) -> AsyncIterator[Parts]:
    """The parts on two clients, with their loops running. Does not wait for Redis."""
    client, blocking = redis_client(settings), redis_client(settings, BLOCK_S)
    publisher, records = Publisher(settings, client), Records(client)
    mailbox = Mailbox(client, blocking, records)
    streams = Streams(client, blocking, records, settings.api_disconnect_grace_s)
    loops = [asyncio.create_task(loop) for loop in (publisher.run(), mailbox.listen(), mailbox.sweep())]
    try:
        admission = Admission(settings, client, publisher)
        fleet, leases, webhooks = Fleet(client), BatchLeases(client), WebhookQueue(client)
        yield Parts(admission, mailbox, records, streams, fleet, leases, webhooks)
    finally:
        await stop(*loops)
        await streams.close()
        await client.aclose()
        await blocking.aclose()


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts
