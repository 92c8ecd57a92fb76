"""The JSON shape of every job, of its outcome, and of a worker's heartbeat."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Priority = Literal["interactive", "bulk"]
Pooling = Literal["cell", "tanh", "mean"]
Offsets = Literal["characters", "utf-16"]
RankBy = Literal["likelihood", "sentiment"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class Message(BaseModel):
    """Strict and immutable: a message with unknown or missing fields is refused."""

    # An error must not quote the texts of users.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class JobBase(Message):
    id: str = Field(pattern=r"^[A-Za-z0-9_-]{16,64}$")
    priority: Priority = "interactive"
    timeout_s: float = Field(ge=0)  # from its acceptance on; a job that has not ended by then fails
    mailbox: str | None = None  # of the gateway that waits for the outcome
    events: bool = False  # whether the outcome also goes to the job's stream
    request_id: str | None = None  # what its request is called in logs
    traceparent: str | None = None  # the span of its request (W3C Trace Context), where traces are on


class ClassifyJob(JobBase):
    kind: Literal["classify"] = "classify"
    texts: list[str] = Field(min_length=1)
    head: str


class FeaturizeJob(JobBase):
    kind: Literal["featurize"] = "featurize"
    texts: list[str] = Field(min_length=1)
    pooling: Pooling


class TraceJob(JobBase):
    kind: Literal["trace"] = "trace"
    text: str
    units: list[int] | None  # None: the sentiment unit
    offsets: Offsets = "characters"


class GenerateJob(JobBase):
    kind: Literal["generate"] = "generate"
    prompt: str
    sentiment: float | None = Field(ge=-1, le=1)
    clamp: dict[int, float]
    length: int = Field(ge=1)  # bytes
    temperature: float = Field(ge=0)
    top_k: int = Field(ge=1, le=256)
    top_p: float = Field(gt=0, le=1)
    seed: int = Field(ge=0, lt=2**63)
    n: int = Field(ge=1)
    best_of: int = Field(ge=1)
    rank_by: RankBy = "likelihood"  # sentiment: nearest to `sentiment` by the checkpoint's head of that name
    stop: list[str]
    stream: bool = False  # write `token` events


class FitJob(JobBase):
    """Fit a head on labelled texts. labels: one for each text."""

    kind: Literal["fit"] = "fit"
    name: str
    texts: list[str] = Field(min_length=2)
    labels: list[str]
    unit_only: bool
    pooling: Pooling


class DeleteHeadJob(JobBase):
    kind: Literal["delete-head"] = "delete-head"
    name: str


AnyJob = ClassifyJob | FeaturizeJob | TraceJob | GenerateJob | FitJob | DeleteHeadJob
JOB: TypeAdapter[AnyJob] = TypeAdapter(Annotated[AnyJob, Field(discriminator="kind")])


class ErrorCode(StrEnum):
    """Why a job failed. The gateway maps each to an HTTP status."""

    UNKNOWN_HEAD = "unknown-head"
    UNKNOWN_UNIT = "unknown-unit"
    NO_SENTIMENT_UNIT = "no-sentiment-unit"
    DEADLINE_EXCEEDED = "deadline-exceeded"
    ENGINE_FAILURE = "engine-failure"
    WORKERS_DIED = "workers-died"
    MODEL_CHANGED = "model-changed"
    HEAD_EXISTS = "head-exists"
    HEAD_OF_OTHER_CHECKPOINT = "head-of-other-checkpoint"
    CANNOT_FIT = "cannot-fit"
    CANNOT_KEEP_HEADS = "cannot-keep-heads"


class JobError(Message):
    code: ErrorCode
    detail: str


class Outcome(Message):
    """How a job ended: exactly one of result and error, or neither when it was cancelled."""

    state: Literal["done", "failed", "cancelled"]
    result: dict[str, Any] | None = None
    error: JobError | None = None

    @classmethod
    def late(cls, timeout_s: float) -> "Outcome":
        """The outcome of a job that has not ended in its time."""
        detail = f"not ended within {timeout_s:g} s (`timeout_s`; NEURON_API_JOB_TIMEOUT_S if left out)"
        return cls(state="failed", error=JobError(code=ErrorCode.DEADLINE_EXCEEDED, detail=detail))


class ModelInfo(Message):
    """A model as a worker serves it."""

    name: str
    step: int
    cell: str
    units: int
    bytes_seen: int
    bits_per_byte: float | None
    sentiment_unit: int | None
    heads: dict[str, list[str]]  # name -> labels
    dtype: str
    device: str


class TopUnit(Message):
    """One of the units that weigh most in a head. weights: of raw features, one for each row of the head's matrix."""

    unit: int
    weights: list[float]


class CheckpointName(Message):
    name: str
    step: int


class HeadInfo(Message):
    """A fitted head, as workers report it. Two labels: one row of weights, for the second label."""

    name: str
    checkpoint: CheckpointName = Field(description="Whose features it was fitted on; with another one it answers 409.")
    labels: list[str]
    examples: int
    unit_only: bool
    pooling: Pooling = Field(description="Of the features that it takes.")
    accuracy: float | None = Field(
        description="By cross-validation: the mean over the folds, on examples that were held out; null if a label "
        "has a single example."
    )
    accuracy_interval: tuple[float, float] | None = Field(
        None,
        description="Of 95 %: where the accuracy on texts of this kind lies. A handful of examples leaves it wide.",
    )
    accuracy_deviation: float | None = Field(description="Standard deviation of the accuracy between the folds.")
    folds: int
    c: float | None = Field(description="Inverse strength of the L1 penalty; null for a single unit.")
    nonzero_units: int
    top_units: list[TopUnit] = Field(description="The heaviest first, by weight times deviation.")
    created: float = Field(description="Unix time in seconds.")


class WorkerStatus(Message):
    """A worker's heartbeat. The first comes as soon as a model is loaded.

    engine_age_s: seconds since the engine last made a step or looked for rows. stopping: the worker got SIGTERM, and
    ends or gives back the jobs that it runs.
    """

    id: str
    ready: bool
    stopping: bool
    model: ModelInfo | None
    engine_age_s: float
    rows_active: int
    rows_waiting: int
