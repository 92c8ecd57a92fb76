"""The gateway's Prometheus metrics."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("neuron_requests", "HTTP requests answered", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "neuron_request_seconds",
    "Time from a request's first byte to its answer's last",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
REFUSED = Counter("neuron_refused_requests", "Requests refused before they made a job", ["reason"])
ACCEPTED = Counter("neuron_accepted_jobs", "Jobs put on the queue", ["kind"])
CANCELLED = Counter("neuron_cancelled_jobs", "Jobs cancelled", ["reason"])  # reason: request, disconnect
EXPIRED = Counter("neuron_expired_jobs", "Jobs that the gateway ended because no worker had ended them in their time")
REPLAYED = Counter("neuron_replayed_requests", "Requests answered by the job that their Idempotency-Key made before")
MESSAGE_JOBS = Histogram("neuron_message_jobs", "Jobs in one queue message", buckets=(1, 2, 4, 8, 16, 32))
# Of Redis, which all gateways share: each reports the same, read when it is scraped.
REDIS_UP = Gauge("neuron_redis_up", "Whether Redis answers this gateway")
WORKERS_READY = Gauge("neuron_workers_ready", "Workers whose last heartbeat says that they are ready")
QUEUE_JOBS = Gauge("neuron_queue_jobs", "Jobs that wait for a worker", ["queue"])
QUEUE_AGE = Gauge("neuron_queue_age_seconds", "Time that the oldest of them has waited", ["queue"])
OPEN_TEXTS = Gauge("neuron_open_texts", "Texts accepted and not yet answered")
OPEN_BYTES = Gauge("neuron_open_bytes", "Bytes to read or generate, accepted and not yet answered")
DEAD_JOBS = Gauge("neuron_dead_jobs", "Jobs that were given up and are kept; see `neuron jobs dead`")
_PATIENCE = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
FIRST_CHARACTER = Histogram(
    "neuron_first_character_seconds", "Time from a request for a stream to its first characters", buckets=_PATIENCE
)
BETWEEN_CHARACTERS = Histogram(
    "neuron_between_characters_seconds", "Time between two events with characters of a stream", buckets=_PATIENCE
)
WAITING = Gauge("neuron_waiting_requests", "Requests held open for their answer")
STREAMS = Gauge("neuron_open_streams", "Event streams that are being read")
DROPPED = Counter("neuron_dropped_connections", "Connections ended because the client did not read its answer")
BATCHES = Counter("neuron_batches", "Batches that have ended", ["state"])  # done, cancelled, expired, failed
BATCH_PAUSES = Counter("neuron_batch_pauses", "Lines of batches that were refused for now, and were tried again")
BATCH_ERRORS = Counter("neuron_batch_errors", "Failures to find batches, to run them or to keep their answers")
WEBHOOKS = Counter("neuron_webhook_posts", "Attempts to post an ended job", ["outcome"])  # delivered, failed, given-up
UNREADABLE = Counter(
    "neuron_unreadable_records",
    "Heartbeats and fitted heads that were found in Redis and left out: of another version, or damaged",
    ["kind"],  # worker, head
)
LISTENER_ERRORS = Counter("neuron_listener_errors", "Failures to read ended jobs or to note a leaving reader")

# Present from the start, at 0: Prometheus sees no increase in the first sample of a series.
for _counter, _values in (
    (REFUSED, ("queue-full",)),
    (UNREADABLE, ("worker", "head")),
    (CANCELLED, ("request", "disconnect")),
    (WEBHOOKS, ("delivered", "failed", "given-up")),
    (BATCHES, ("done", "cancelled", "expired", "failed")),
):
    for _value in _values:
        _counter.labels(_value)
