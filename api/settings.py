"""The gateway's settings, from environment variables."""

import ipaddress
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, SecretStr

from api.keys import Key, parse
from contract.setting_error import SettingError
from contract.settings import ProcessSettings


class ApiSettings(ProcessSettings):
    process: ClassVar[str] = "api"
    renamed: ClassVar[Mapping[str, str]] = {
        "NEURON_API_MAX_HEAD_BYTES": "NEURON_API_MAX_HEADER_BYTES",
        "NEURON_API_MAX_HEADS_BYTES": "NEURON_API_MAX_FIT_BYTES",
    }

    api_host: str = Field(
        "127.0.0.1",
        description="Address to listen on. One that other machines reach is refused without `NEURON_API_KEYS`, unless "
        "`NEURON_INSECURE` is true.",
    )
    api_port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    api_keys: SecretStr | None = Field(
        None,
        description="The keys that may call, as `NAME:SCOPES:SHA256`, separated by commas; `neuron key new` prints "
        "one. Unset: anyone may.",
    )
    api_key_requests_per_s: float | None = Field(
        None, gt=0, description="Requests a second that a key may make, and the burst; more answer 429."
    )
    api_key_bytes_per_day: int | None = Field(
        None, ge=1, description="Bytes that a key may have read or generated in a day (UTC); more answer 429."
    )
    api_cors_origins: str | None = Field(
        None,
        description="Origins whose pages may call from a browser, separated by commas; `*` is any. Unset: none may.",
    )
    api_max_header_bytes: int = Field(
        32_768, ge=1024, description="Bytes of a request's line and header section; more answer 431."
    )
    api_request_timeout_s: float = Field(
        60.0,
        gt=0,
        description="How long a client may take to send one request, headers and body, or each MiB of a longer "
        "body; then 408. And how long it may "
        "leave an answer unread; then its connection is closed.",
    )
    api_max_texts: int = Field(1024, ge=1, description="Texts in one request; more answer 413.")
    api_max_examples: int = Field(
        100_000,
        ge=2,
        le=100_000,
        description="Examples in one `POST /heads`; more answer 413. The worker holds a feature vector of each.",
    )
    api_max_fit_bytes: int = Field(
        64 * 2**20,
        ge=1024,
        description="Bytes of the body of a `POST /heads`, which fits a head; more answer 413, while it is being read.",
    )
    api_max_text_bytes: int = Field(
        4 * 2**20,
        ge=1,
        description="UTF-8 bytes of one text or prompt; more answer 413. Texts are never truncated, so this bounds "
        "how long one row can hold its place.",
    )
    api_max_request_bytes: int = Field(
        16 * 2**20, ge=1024, description="Bytes of any other request body; more answer 413, while it is being read."
    )
    api_max_trace_bytes: int = Field(
        65_536,
        ge=1,
        description="UTF-8 bytes of a text to trace, by its units in a picture; the answer has some 100 times as many, "
        "and 20 times more for each further unit and each label of a head.",
    )
    api_max_length: int = Field(10_000, ge=1, description="Bytes that one sample may be asked to generate.")
    api_max_samples: int = Field(64, ge=1, description="Samples of one request: the larger of n and best_of.")
    api_max_queued_texts: int = Field(
        10_000,
        ge=1,
        description="Texts accepted and not yet answered, over all gateways; more answer 429. A longer queue accepts "
        "bursts, and lets every job in it wait. The examples of a fit, which wait for all others, count as one text.",
    )
    api_max_queued_bytes: int = Field(
        64 * 2**20, ge=1, description="Bytes to read or generate, accepted and not yet answered; more answer 429."
    )
    api_coalesce_ms: float = Field(
        5.0,
        ge=0,
        le=1000,
        description="Batching delay: how long a job waits for others to share its queue message, where one has just "
        "left. A longer one makes fewer, fuller messages; an idle gateway never waits.",
    )
    api_retry_after_s: int = Field(2, ge=1, description="What a 429 or 503 names in `Retry-After`.")
    api_job_timeout_s: float = Field(
        3600.0,
        gt=0,
        description="A job that has not ended this long after it was accepted fails with 504. The most that a request "
        "may ask for by `timeout_s`; more answer 422.",
    )
    api_idempotency_ttl_s: int = Field(
        86_400, ge=1, description="How long a repeated request with the same `Idempotency-Key` gets the same job."
    )
    api_batch_storage: str | None = Field(
        None,
        description="Where batches lie: a directory that all gateways share, or `s3://BUCKET/PREFIX`, which needs the "
        "extra `s3` and the variables that AWS' tools read. Unset: no batches, except in `neuron up`, which keeps them "
        "in `NEURON_DATA_DIR`.",
    )
    api_max_batch_bytes: int = Field(200 * 2**20, ge=1024, description="Bytes of a batch's file; more answer 413.")
    api_max_batch_lines: int = Field(100_000, ge=1, description="Lines of a batch's file; more answer 413.")
    api_max_stored_bytes: int = Field(
        20 * 2**30,
        ge=1024,
        description="Bytes of the files and answers in the storage of batches that one key may have, or all clients "
        "together where there are no keys. A file beyond answers 413; a batch whose answers pass it, which is measured "
        "every half minute, fails, and keeps those that it has. Room comes back with `NEURON_API_BATCH_TTL_S`.",
    )
    api_batch_timeout_s: float = Field(
        86_400.0,
        gt=0,
        description="Lines of a batch that have no answer so long after it was sent get an error in its place. The "
        "most that a request may ask for; more answer 422.",
    )
    api_batch_ttl_s: float = Field(
        7 * 86_400.0, gt=0, description="How long batches that have ended are kept, and files that no batch reads."
    )
    api_webhook_hosts: str | None = Field(
        None,
        description="Hosts to which ended jobs may be posted, as `HOST`, `HOST:PORT` or `*.DOMAIN`, separated by "
        "commas; those of your own network too, if you name them. Unset: none.",
    )
    api_wait_s: float = Field(
        300.0,
        gt=0,
        description="How long a request is held open for its answer; then it gets 202 and the job's address.",
    )
    api_disconnect_grace_s: float = Field(
        1.0,
        ge=0,
        description="How long a stream whose client went away may be resumed before its job is cancelled.",
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if not (self.keys or self.insecure or _is_loopback(self.api_host)):
            raise SettingError(
                f"NEURON_API_HOST is {self.api_host!r}, which other machines may reach, and NEURON_API_KEYS names no "
                "key: name one (`neuron key new` makes it), or set NEURON_INSECURE=true to let anyone call"
            )
        for name in ("api_key_requests_per_s", "api_key_bytes_per_day"):
            if getattr(self, name) is not None and not self.keys:
                raise SettingError(f"NEURON_{name.upper()} limits each key, and NEURON_API_KEYS names none")

    @property
    def keys(self) -> list[Key]:
        """The keys that may call; empty where anyone may. Raises SettingError."""
        return parse(self.api_keys.get_secret_value()) if self.api_keys else []

    @property
    def webhook_hosts(self) -> list[str]:
        """Hosts to which ended jobs may be posted."""
        return [host.strip() for host in (self.api_webhook_hosts or "").split(",") if host.strip()]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name, or "" for all addresses
        return False
