"""Response bodies."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contract.jobs import HeadInfo, JobState, ModelInfo, Pooling


class ModelName(BaseModel):
    name: str
    step: int


class Classification(BaseModel):
    label: str
    score: float = Field(description="Probability of the label.")
    margin: float = Field(
        description="By how much the label is more probable than the next: near 0, the head is unsure."
    )
    probabilities: dict[str, float]
    expected_value: float | None = Field(
        description="Mean of the labels by their probabilities, where all labels are numbers, such as stars."
    )
    unit_sentiment: float | None = Field(description="The sentiment unit alone, calibrated to [-1, 1].")
    sentiment: float | None = Field(
        description="The former name of `unit_sentiment`, for one more version.", deprecated=True
    )
    unit_value: float | None = Field(description="The sentiment unit's raw value.")
    bits_per_byte: float | None = Field(
        description="How well the model predicts the text, over at most its first 512 bytes; null if it has no limits."
    )
    warning: str | None = Field(description="Set where the text is unlike what the model has learnt from.")


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(pattern="^urn:sentiment-neuron:problem:")
    title: str
    status: int
    detail: str


class SkippedText(BaseModel):
    error: Problem = Field(description="Why the text could not be used; with `on_error` `skip` alone.")


class ClassifyResponse(BaseModel):
    model: ModelName
    head: str
    results: list[Classification | SkippedText]


class Features(BaseModel):
    features: list[float] | str


class FeaturizeResponse(BaseModel):
    model: ModelName
    pooling: Pooling
    encoding: Literal["float", "base64"]
    results: list[Features | SkippedText]


class FitResponse(HeadInfo):
    model: ModelName


class FittedHead(HeadInfo):
    usable: bool = Field(description="Whether a worker serves the checkpoint that it was fitted on.")


class HeadsResponse(BaseModel):
    heads: list[FittedHead]


class TracedByte(BaseModel):
    byte: int
    start: int = Field(description="First character of the text as sent that the byte belongs to; see `offsets`.")
    end: int = Field(description="The character after the last; equal to start for bytes that preparation adds.")
    text: str
    values: list[float] = Field(description="One for each of `units`, after the byte was read.")
    sentiment: float | None = Field(None, description="Calibrated, where the sentiment unit is traced.")
    probabilities: list[float] | None = Field(
        None, description="One for each of `labels`, if the text ended here, where a head was asked for."
    )


class TraceResponse(BaseModel):
    model: ModelName
    units: list[int]
    sentiment_unit: int | None = Field(None, description="The model's, also where it is not among `units`.")
    head: str | None = None
    labels: list[str] | None = Field(None, description="The head's.")
    bytes: list[TracedByte]


class GeneratedByte(BaseModel):
    byte: int
    log_probability: float = Field(description="Nats, under the model at temperature 1.")


class Sample(BaseModel):
    index: int = Field(description="Number of the sample; `token` events name it.")
    text: str = Field(description="The continuation, without the prompt.")
    mean_log_probability: float = Field(description="Nats a byte under the model at temperature 1.")
    positive: float | None = Field(
        None, description="Probability of positive by the head `sentiment`, where that is what samples are ranked by."
    )
    finish_reason: Literal["length", "stop"]
    bytes: list[GeneratedByte] | None = Field(
        None, description="Those of the text, with `log_probabilities`. A character that is cut off is there in part."
    )


class GenerateResponse(BaseModel):
    model: ModelName
    seed: int
    results: list[Sample] = Field(description="The best first, by `rank_by`.")


class Progress(BaseModel):
    done: int = Field(description="Bytes read and generated, as of two seconds ago.")
    total: int = Field(description="Bytes to read, and to generate at most.")


class ListedJob(BaseModel):
    id: str
    kind: str
    state: JobState
    created: float = Field(description="Unix time in seconds.")
    progress: Progress | None = None


class JobResponse(ListedJob):
    result: dict[str, Any] | None = None
    error: Problem | None = None


class JobsResponse(BaseModel):
    jobs: list[ListedJob] = Field(description="The newest first.")
    next: str | None = Field(description="What `after` is for the next page; null where this is the last.")


class ModelsResponse(BaseModel):
    models: list[ModelInfo]
