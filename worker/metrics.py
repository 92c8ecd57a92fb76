"""The worker's Prometheus metrics. Those of rows, steps and prefixes are set by engine_metrics.py."""

from prometheus_client import Counter, Gauge, Histogram

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

STEP_ROWS = Histogram("neuron_step_rows", "Rows that took part in a step", buckets=_ROWS)
BLOCK_SECONDS = Histogram(
    "neuron_block_seconds",
    "Duration of one block of steps",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
STEP_SECONDS = Histogram(
    "neuron_step_seconds",
    "Duration of a step, on average over those of a block",
    buckets=(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
ENGINE_AGE = Gauge("neuron_engine_age_seconds", "Time since the engine last made a step or looked for rows")
CEILING = Gauge("neuron_engine_ceiling_bytes_per_second", "What full steps would give, as long as steps take lately")
# On a CPU the resident memory of the process, because the model lies in the machine's memory.
DEVICE_MEMORY = Gauge("neuron_device_memory_bytes", "Memory of the model's device that the worker holds")
BYTES = Counter("neuron_bytes", "Bytes that went through the model", ["kind"])  # kind: read, generated
ROWS_ACTIVE = Gauge("neuron_rows_active", "Rows in the engine")
ROWS_WAITING = Gauge("neuron_rows_waiting", "Rows that wait for room in the engine")
ROWS_ENDED = Counter("neuron_rows_ended", "Rows that left the engine", ["how"])
# outcome: as engine/observer.py explains
PREFIX_CACHE_LOOKUPS = Counter("neuron_prefix_cache_lookups", "Rows that looked for a prefix of theirs", ["outcome"])
PREFIX_CACHE_SPARED = Counter("neuron_prefix_cache_spared_bytes", "Bytes that rows did not have to read")
PREFIX_CACHE_HELD = Gauge("neuron_prefix_cache_held_bytes", "Bytes of the states that are kept")
PREFIX_CACHE_EVICTIONS = Counter("neuron_prefix_cache_evictions", "Kept states that made room for others")
QUEUE_WAIT = Histogram(
    "neuron_queue_wait_seconds",
    "Time from a job's acceptance until a worker begins it",
    ["queue"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
# kind: unknown, where the job could not be read
JOBS = Counter("neuron_jobs", "Jobs that ended", ["kind", "state"])
JOB_SECONDS = Histogram("neuron_job_seconds", "Time from taking a job off the queue to its outcome", ["kind"])
REFUSED_MESSAGES = Counter("neuron_refused_messages", "Queue messages that are not a job")
WATCHER_ERRORS = Counter("neuron_watcher_errors", "Failures of what a worker does periodically", ["watcher"])
# reason: lapsed (its worker died or hung), lost (its message went with a worker that had not begun it)
REDELIVERIES = Counter("neuron_redeliveries", "Jobs queued again because they had lost their worker", ["reason"])
GIVEN_BACK = Counter("neuron_given_back", "Jobs given back to the queue, to stop or to make way", ["reason"])
DEAD_LETTERS = Counter("neuron_dead_letters", "Jobs given up because every delivery brought down its worker")
LEASES_LOST = Counter("neuron_leases_lost", "Jobs that went to another worker while this one still ran them")
OUT_OF_MEMORY = Counter("neuron_out_of_memory", "Blocks that ran out of memory and were run again with fewer rows")
RELOADS = Counter("neuron_reloads", "Attempts to load a newly published checkpoint", ["outcome"])
MODEL = Gauge("neuron_model_info", "1 for the model that is served", ["name", "step"])
FIT_SECONDS = Histogram(
    "neuron_fit_seconds",
    "Time that a head was fitted for, after its texts were read",
    buckets=(0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
RECURRENT_SECONDS = Histogram(
    "neuron_recurrent_batch_seconds",
    "Duration of a batch of texts for a recurrent classifier",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
RECURRENT_ROWS = Histogram("neuron_recurrent_batch_rows", "Texts of such a batch", buckets=_ROWS[:7])
RECURRENT_ENDED = Counter("neuron_recurrent_texts_ended", "Texts that left the queue of such classifiers", ["how"])
RECURRENT_WAITING = Gauge("neuron_recurrent_texts_waiting", "Texts that wait in it")
HEADS = Gauge("neuron_heads", "Heads in the directory of fitted heads")
REFUSED_HEADS = Counter("neuron_refused_heads", "Heads, or directories of them, that could not be read")
HEARTBEATS = Counter("neuron_heartbeats", "Heartbeats written")

# Series that are 0 exist from the start, because Prometheus sees no increase in the first value of a series.
for _counter, _values in (
    (BYTES, ("read", "generated")),
    (PREFIX_CACHE_LOOKUPS, ("hit", "shared", "miss")),
    (REDELIVERIES, ("lapsed", "lost")),
    (GIVEN_BACK, ("stop", "quarantine")),
    (RELOADS, ("served", "refused")),
    (RECURRENT_ENDED, ("done", "failed", "cancelled", "late")),
    (QUEUE_WAIT, ("interactive", "bulk")),
):
    for _value in _values:
        _counter.labels(_value)
