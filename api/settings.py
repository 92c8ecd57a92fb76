"""The gateway's settings, from environment variables."""

from typing import ClassVar

from pydantic import Field

from contract.settings import ProcessSettings


class ApiSettings(ProcessSettings):
    process: ClassVar[str] = "api"

    api_host: str = Field("127.0.0.1", description="Address to listen on.")
    api_port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    api_max_texts: int = Field(1024, ge=1, description="Texts in one request; more answer 413.")
    api_max_text_bytes: int = Field(
        4 * 2**20,
        ge=1,
        description="UTF-8 bytes of one text or prompt; more answer 413. Texts are never truncated, so this bounds "
        "how long one row can hold its place.",
    )
    api_max_request_bytes: int = Field(
        16 * 2**20, ge=1024, description="Bytes of one request body; more answer 413, while it is being read."
    )
    api_max_trace_bytes: int = Field(
        65_536, ge=1, description="UTF-8 bytes of a text to trace; the answer is some 100 times as large."
    )
    api_max_length: int = Field(10_000, ge=1, description="Bytes that one sample may be asked to generate.")
    api_max_samples: int = Field(64, ge=1, description="Samples of one request: the larger of n and best_of.")
    api_max_queued_texts: int = Field(
        10_000,
        ge=1,
        description="Texts accepted and not yet answered, over all gateways; more answer 429. A longer queue accepts "
        "bursts, and makes everyone in it wait.",
    )
    api_max_queued_bytes: int = Field(
        64 * 2**20, ge=1, description="Bytes to read or generate, accepted and not yet answered; more answer 429."
    )
    api_coalesce_ms: float = Field(
        5.0,
        ge=0,
        le=1000,
        description="How long a job waits for others to share its queue message, where one has just left. Longer waits "
        "make fewer, fuller messages; an idle gateway never waits.",
    )
    api_retry_after_s: int = Field(2, ge=1, description="What a 429 or 503 names in `Retry-After`.")
    api_job_timeout_s: float = Field(
        3600.0, gt=0, description="A job that has not ended this long after it was accepted fails with 504."
    )
    api_wait_s: float = Field(
        300.0, gt=0, description="How long a request is held open for its answer; then 202 and the job's address."
    )
    api_disconnect_grace_s: float = Field(
        1.0,
        ge=0,
        description="How long a stream whose client went away may be resumed before its job is cancelled.",
    )
