"""The worker's settings, from environment variables."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from contract.settings import ProcessSettings


class WorkerSettings(ProcessSettings):
    process: ClassVar[str] = "worker"
    renamed: ClassVar[Mapping[str, str]] = {
        "NEURON_WORKER_GATHER_MS": "NEURON_WORKER_BATCHING_DELAY_MS",
        "NEURON_WORKER_STATE_CACHE_MB": "NEURON_WORKER_PREFIX_CACHE_MB",
    }

    worker_metrics_host: str = Field(
        "127.0.0.1", description="Address that the worker's `/metrics`, `/healthz` and `/readyz` listen on."
    )
    worker_metrics_port: int = Field(
        9101,
        ge=0,
        le=65535,
        description="Port of the worker's `/metrics`, `/healthz` and `/readyz`; 0 takes a free one and logs it.",
    )
    worker_jobs: int = Field(
        128,
        ge=1,
        description="Messages of the queue in progress at once, each of one or more jobs and with a thread. Fewer "
        "starve the engine of single-text jobs. Bulk messages take three quarters of them at most.",
    )
    worker_max_rows: int = Field(
        256, ge=1, description="Rows in a step. More raise throughput and the time that each step takes."
    )
    worker_block_steps: int = Field(
        16,
        ge=1,
        description="Steps between two chances for rows to join, leave or be cancelled. Larger blocks cost less "
        "overhead; smaller ones answer sooner.",
    )
    worker_bulk_share: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Share of the engine that bulk rows (`Prefer: respond-async`) have beside interactive ones. More "
        "slows interactive rows: beside bulk, a step takes up to 1 / (1 - share) times as long.",
    )
    worker_batching_delay_ms: float = Field(
        5.0,
        ge=0,
        le=1000,
        description="Batching delay: how long a block of few rows waits for more while requests keep coming. Waiting "
        "fills steps that cost the same anyway; a request that comes alone never waits.",
    )
    worker_prefix_cache_mb: float = Field(
        64.0,
        ge=0,
        description="MiB of states kept for each served model, on its device, so that prefixes which texts have in "
        "common are read once; 0 reads every text whole.",
    )
    worker_device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device; auto takes CUDA where it is.")
    worker_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Numbers in products; auto takes bfloat16 where the device multiplies it natively."
    )
    worker_bits_per_byte: bool = Field(
        True,
        description="Whether `POST /classify` measures `bits_per_byte` of texts and warns of unfamiliar ones. Without, "
        "both are null, and short texts are read some percent faster.",
    )
    worker_threads: int = Field(
        0, ge=0, description="CPU threads of one product; 0 leaves torch's own choice, usually one per core."
    )
    worker_poll_s: float = Field(
        2.0, gt=0, description="How often `LATEST` is looked at for a newer model, and the heads' directory for others."
    )
    worker_heads_dir: Path | None = Field(
        None,
        description="Where fitted heads are kept, the same for all workers of one Redis. Unset: `heads` in "
        "`NEURON_CHECKPOINT_DIR` or, without that, in `NEURON_DATA_DIR`.",
    )
    worker_result_ttl_s: int = Field(
        3600, ge=1, description="How long results and streams can be fetched; after that they answer 410."
    )
    worker_max_deliveries: int = Field(
        3,
        ge=2,
        description="Workers that a job may bring down until it fails and is kept for `neuron jobs dead`. The last "
        "one runs it alone.",
    )
    worker_grace_s: float = Field(
        25.0,
        ge=0,
        description="How long jobs in progress may continue after SIGTERM; then other workers get them. Keep it "
        "shorter than your supervisor waits before it kills.",
    )

    @property
    def heads_dir(self) -> Path:
        return self.worker_heads_dir or (self.checkpoint_dir or self.data_dir) / "heads"
