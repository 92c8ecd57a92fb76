"""Names on the wire: the Celery task and queues, their messages, and every Redis key with what it holds and how long.

| key | type | holds | lives |
|---|---|---|---|
| `neuron`, `neuron.bulk` | list | Celery messages, each with the ids of one or more jobs | until taken |
| `neuron:job:ID` | hash | what is known of the job: see below | RECORD_TTL_S after the end |
| `neuron:waiting`, `neuron:waiting:bulk` | sorted set | ID -> created, of jobs that no worker has | until begun |
| `neuron:leases` | sorted set | ID -> when its lease lapses, of jobs that a worker has | until the job ends |
| `neuron:result:ID` | string | the first `Outcome`, as JSON; it stays | the worker's result_ttl_s, or RECORD_TTL_S |
| `neuron:events:ID` | stream | `token` events and the end | as the result |
| `neuron:cancel:ID` | string | "1" when the job shall stop | CANCEL_TTL_S |
| `neuron:idempotency:HASH` | string | "ID FINGERPRINT": what a key made, of what | api_idempotency_ttl_s |
| `neuron:open` | hash | ID -> "texts:bytes" of every accepted, unfinished job | until the job ends |
| `neuron:load` | hash | texts, bytes: the sums over `neuron:open` | always |
| `neuron:dead` | list | the last DEAD_AT_MOST jobs that were given up: id, at, cost, record as JSON | until taken out |
| `neuron:mailbox:NAME` | list | of ended jobs, for the gateway of that name: see `letter` | MAILBOX_TTL_S |
| `neuron:rate:NAME` | hash | tokens, at: the bucket of requests of the API keys of that name | until it is full |
| `neuron:quota:NAME:DATE` | string | bytes that these keys had read or generated on that day (UTC) | two days |
| `neuron:heads` | hash | name -> `HeadInfo` as JSON, of every head that was fitted: workers keep it | always |
| `neuron:workers` | set | ids of workers | until found dead |
| `neuron:worker:ID` | string | `WorkerStatus` as JSON | HEARTBEAT_TTL_S |

A record holds kind, priority, state, created, timeout_s, encoding, abandon and readers; attempts, the deliveries that
began; holder, the last of them; requeued, when it was last queued again; and until the end body, the job's JSON.

An accepted job is in `neuron:open`, and in exactly one of `neuron:waiting...` and `neuron:leases`, until it ends. Its
message may be lost or come twice: who begins a job takes its lease, and without a body or beside a lease nothing runs.
Times are Unix times in seconds by the clock of Redis, with which no other is compared. Should it jump backwards, the
reaper brings what then lies in the future back to the present: leases lapse LEASE_S later, and time limits of jobs
that wait begin anew. Should it jump forwards, leases lapse, and time limits and lifetimes end, early by as much: jobs
may run again, and are still told once.
"""

from typing import Any

from contract.jobs import Priority

TASK = "neuron.run"
# By the priority of the jobs in their messages; workers look for messages in this order.
QUEUES: dict[Priority, str] = {"interactive": "neuron", "bulk": "neuron.bulk"}
WAITING: dict[Priority, str] = {"interactive": "neuron:waiting", "bulk": "neuron:waiting:bulk"}

OPEN = "neuron:open"
LOAD = "neuron:load"
LEASES = "neuron:leases"
DEAD = "neuron:dead"
WORKERS = "neuron:workers"
HEADS = "neuron:heads"

RECORD_TTL_S = 24 * 3600  # so that an expired result answers 410, not 404, for a day
CANCEL_TTL_S = 3600
MAILBOX_TTL_S = 120
MAILBOX_MAX_BYTES = 65_536  # a longer outcome is fetched from its own key
HEARTBEAT_INTERVAL_S = 1.0
HEARTBEAT_TTL_S = 10
DEAD_AT_MOST = 100

# A worker renews its leases some times within this; what a dead one held is queued again when they have lapsed.
LEASE_S = 15.0
# A job that was to be taken off the queue this long ago, and was not begun, is queued again.
LOST_S = 10.0
# A gateway ends a job itself when it is this late: its worker, if one has it, should have done so by then.
LATE_S = 1.0
# An engine that has rows and has made no step for this long is hung: one step takes well under a second.
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


def mailbox(name: str) -> str:
    return f"neuron:mailbox:{name}"


def letter(entry: bytes) -> tuple[str, bytes | None]:
    """What an entry of a mailbox says: the id of a job that has ended and, on the next line, its outcome if short."""
    job_id, _, outcome = entry.partition(b"\n")
    return job_id.decode(), outcome or None


def worker(worker_id: str) -> str:
    return f"neuron:worker:{worker_id}"


def celery_settings() -> dict[str, Any]:
    """How Celery must be set at the queue's end, and by whoever sends through Celery; the gateway does not."""
    return {
        # Never pickle: a queue that others can write to must not run their code.
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": QUEUES["interactive"],
        # Workers write outcomes to Redis themselves.
        "task_ignore_result": True,
        "broker_transport_options": {
            "queue_order_strategy": "priority",
            "body_encoding": "utf-8",
            # Messages that a dead worker took come back after this long. Their jobs have run long since: see LEASE_S.
            "visibility_timeout": 3600,
            # Redis away must show at once, not when the kernel gives up.
            "socket_connect_timeout": 2,
            "socket_timeout": 10,
        },
    }
