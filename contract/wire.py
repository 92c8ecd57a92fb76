"""Names on the wire: the Celery task and queues, and every Redis key with what it holds and for how long.

| key | type | holds | lives |
|---|---|---|---|
| `neuron`, `neuron.bulk` | list | Celery messages, each with the ids of one or more jobs | until taken |
| `neuron:job:ID` | hash | what is known of the job: see below | RECORD_TTL_S after the end |
| `neuron:waiting`, `neuron:waiting:bulk` | sorted set | ID -> created, of jobs that no worker has | until begun |
| `neuron:leases` | sorted set | ID -> when its lease lapses, of jobs that a worker has | until the job ends |
| `neuron:result:ID` | string | the first `Outcome`, as JSON; it stays | the worker's result_ttl_s, or RECORD_TTL_S |
| `neuron:events:ID` | stream | `token` events and the end | as the result |
| `neuron:cancel:ID` | string | "1" when the job must stop | the rest of the job's time, and CANCEL_TTL_S |
| `neuron:idempotency:HASH` | string | "ID FINGERPRINT": its job, a digest of the body | api_idempotency_ttl_s |
| `neuron:open` | hash | ID -> "texts:bytes" of every accepted, unfinished job | until the job ends |
| `neuron:load` | hash | texts, bytes: the sums over `neuron:open` | always |
| `neuron:dead` | list | the last DEAD_AT_MOST jobs that were given up: id, at, cost, record as JSON | until taken out |
| `neuron:mailbox:NAME` | list | ended jobs, for the gateway of that name: see `letter` | MAILBOX_TTL_S |
| `neuron:jobs:NAME` | sorted set | ID -> created, of the last asynchronous jobs of a key's name | LISTED_S |
| `neuron:rate:NAME` | hash | tokens, at: the token bucket of the API keys of that name | until it is full |
| `neuron:quota:NAME:DATE` | string | bytes that these keys had read or generated on that day (UTC) | two days |
| `neuron:batch:ID` | hash | the gateway that runs a batch, and how many of its lines have an answer | while it runs |
| `neuron:webhooks` | sorted set | ID -> when a gateway tries to post the ended job | until posted or given up |
| `neuron:heads` | hash | name -> `HeadInfo` as JSON, of every fitted head; written by workers | always |
| `neuron:workers` | set | ids of workers | until found dead |
| `neuron:worker:ID` | string | `WorkerStatus` as JSON | HEARTBEAT_TTL_S |

A record holds kind, priority, state, created, timeout_s, encoding, skipped, abandon and readers; bytes, to be read and
generated, and done, those that were; attempts, the deliveries that began; holder, the last of them; missed, since when
it has been on no queue and not begun; until the end body, the job's JSON; and until it was posted webhook, the address
and the secret, and posts, the attempts.

An accepted job is in `neuron:open`, and in exactly one of `neuron:waiting...` and `neuron:leases`, until it ends. Its
message may be lost or come twice: a worker that begins a job takes its lease, and a job that has no body, or a lease
that has not lapsed, is not begun. Times are Unix times in seconds by the clock of Redis, and are never compared with
another clock. If it jumps backwards, the reaper brings times that now lie in the future back to the present: leases
lapse LEASE_S later, and time limits of jobs that wait start again. If it jumps forwards, leases lapse, and time limits
and lifetimes end, early by as much: jobs may run again, and are still answered once.
"""

from collections.abc import Mapping
from typing import Any

from contract.jobs import Priority

TASK = "neuron.run"
# By priority of the jobs in their messages; workers look for messages in this order.
QUEUES: dict[Priority, str] = {"interactive": "neuron", "bulk": "neuron.bulk"}
WAITING: dict[Priority, str] = {"interactive": "neuron:waiting", "bulk": "neuron:waiting:bulk"}

OPEN = "neuron:open"
LOAD = "neuron:load"
LEASES = "neuron:leases"
DEAD = "neuron:dead"
WORKERS = "neuron:workers"
HEADS = "neuron:heads"
WEBHOOKS = "neuron:webhooks"

RECORD_TTL_S = 24 * 3600  # so that an expired result answers 410, not 404, for a day
CANCEL_TTL_S = 3600
MAILBOX_TTL_S = 120
MAILBOX_MAX_BYTES = 65_536  # a longer outcome is fetched from its own key
HEARTBEAT_INTERVAL_S = 1.0
HEARTBEAT_TTL_S = 10
DEAD_AT_MOST = 100
LISTED_AT_MOST = 10_000
LISTED_S = 7 * 24 * 3600

# A worker renews its leases several times within this; the jobs of a dead one are queued again when they have lapsed.
LEASE_S = 15.0
# A job that has been missed from its queue for so long, and was not begun, is queued again.
LOST_S = 10.0
# A gateway ends a job itself when it is this late; a worker that has it should have done so by then.
LATE_S = 1.0
# An engine that has rows and has made no step for this long is hung, because a step takes well under a second.
ENGINE_STALLED_S = 8.0


def job(job_id: str) -> str:
    return f"neuron:job:{job_id}"


def result(job_id: str) -> str:
    return f"neuron:result:{job_id}"


def events(job_id: str) -> str:
    return f"neuron:events:{job_id}"


def cancel(job_id: str) -> str:
    return f"neuron:cancel:{job_id}"


def idempotency(digest: str) -> str:
    return f"neuron:idempotency:{digest}"


def rate(name: str) -> str:
    return f"neuron:rate:{name}"


def quota(name: str, day: str) -> str:
    return f"neuron:quota:{name}:{day}"


def jobs_of(owner: str) -> str:
    return f"neuron:jobs:{owner}"


def batch(batch_id: str) -> str:
    return f"neuron:batch:{batch_id}"


def mailbox(name: str) -> str:
    return f"neuron:mailbox:{name}"


def letter(entry: bytes) -> tuple[str, bytes | None]:
    """(id of a job that has ended, its outcome if it is short) from an entry of a mailbox: a line each."""
    job_id, _, outcome = entry.partition(b"\n")
    return job_id.decode(), outcome or None


def worker(worker_id: str) -> str:
    return f"neuron:worker:{worker_id}"


def celery_settings(transport_options: Mapping[str, Any]) -> dict[str, Any]:
    """Celery's settings in a worker, and in any process that sends through Celery, which the gateway does not.

    transport_options: those that its address of Redis needs.
    """
    return {
        # Never pickle: a queue that others can write to must not run their code.
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": QUEUES["interactive"],
        # Workers write outcomes to Redis themselves.
        "task_ignore_result": True,
        "broker_transport_options": {
            **transport_options,
            "queue_order_strategy": "priority",
            "body_encoding": "utf-8",
            # Messages that a dead worker took come back after this long. Their jobs have run long since: see LEASE_S.
            "visibility_timeout": 3600,
            # That Redis is away must be seen soon, not when the kernel gives up.
            "socket_connect_timeout": 2,
            "socket_timeout": 10,
        },
    }
