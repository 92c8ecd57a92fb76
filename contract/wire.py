"""Names on the wire: the Celery task and queue, and every Redis key with what it holds and how long.

| key | type | holds | lives |
|---|---|---|---|
| `neuron`, `neuron.bulk` | list | Celery messages, each with the JSON of one or more jobs | until taken |
| `neuron:job:ID` | hash | kind, state, created, encoding, abandon, readers | RECORD_TTL_S after the end |
| `neuron:result:ID` | string | the `Outcome` as JSON; the first one written stays | the worker's result_ttl_s |
| `neuron:events:ID` | stream | `token` events and the end | as the result |
| `neuron:cancel:ID` | string | "1" when the job shall stop | CANCEL_TTL_S |
| `neuron:open` | hash | ID -> "texts:bytes" of every accepted, unfinished job | until the job ends |
| `neuron:load` | hash | texts, bytes: the sums over `neuron:open` | always |
| `neuron:mailbox:NAME` | list | of ended jobs, for the gateway of that name: see `letter` | MAILBOX_TTL_S |
| `neuron:workers` | set | ids of workers | until found dead |
| `neuron:worker:ID` | string | `WorkerStatus` as JSON | HEARTBEAT_TTL_S |
"""

from typing import Any

from contract.jobs import Priority

TASK = "neuron.run"
# By the priority of the jobs in their messages; workers look for messages in this order.
QUEUES: dict[Priority, str] = {"interactive": "neuron", "bulk": "neuron.bulk"}

OPEN = "neuron:open"
LOAD = "neuron:load"
WORKERS = "neuron:workers"

RECORD_TTL_S = 24 * 3600  # so that an expired result answers 410, not 404, for a day
CANCEL_TTL_S = 3600
MAILBOX_TTL_S = 120
MAILBOX_MAX_BYTES = 65_536  # a longer outcome is fetched from its own key
HEARTBEAT_INTERVAL_S = 1.0
HEARTBEAT_TTL_S = 10

# An engine that has not gone round its loop for this long is hung: a block of steps takes well under a second.
ENGINE_STALLED_S = 10.0


def job(job_id: str) -> str:
    return f"neuron:job:{job_id}"


def result(job_id: str) -> str:
    return f"neuron:result:{job_id}"


def events(job_id: str) -> str:
    return f"neuron:events:{job_id}"


def cancel(job_id: str) -> str:
    return f"neuron:cancel:{job_id}"


def mailbox(name: str) -> str:
    return f"neuron:mailbox:{name}"


def letter(entry: bytes) -> tuple[str, bytes | None]:
    """What an entry of a mailbox says: the id of a job that has ended and, on the next line, its outcome if short."""
    job_id, _, outcome = entry.partition(b"\n")
    return job_id.decode(), outcome or None


def worker(worker_id: str) -> str:
    return f"neuron:worker:{worker_id}"


def celery_settings() -> dict[str, Any]:
    """How Celery must be set at the queue's end, and by whoever sends through it; api/publisher.py does without."""
    return {
        # Never pickle: a queue that others can write to must not run their code.
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": QUEUES["interactive"],
        # Workers write outcomes to Redis themselves.
        "task_ignore_result": True,
        "broker_transport_options": {
            "queue_order_strategy": "priority",
            # A message that a worker took and did not finish goes to another after this long. It must exceed the
            # longest job, or a job would run twice.
            "visibility_timeout": 3600,
            # Redis away must show at once, not when the kernel gives up.
            "socket_connect_timeout": 2,
            "socket_timeout": 10,
        },
    }
