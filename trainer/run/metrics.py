"""The metrics of a run (`Metrics`): Prometheus over HTTP, and TensorBoard event files in its directory.

They are set from the records that journal.py makes of every update.
"""

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Summary, start_http_server
from prometheus_client.metrics import MetricWrapperBase

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# field of a record -> name and help of the gauge that shows it
_GAUGES = {
    "bytes_per_s": ("bytes_per_second", "Bytes predicted a second, over all processes"),
    "mfu": ("mfu_ratio", "6 FLOP a parameter and byte, as a share of the peak of all devices"),
    "gradient_norm": ("gradient_norm", "Norm of the last update's gradient, before clipping"),
    "learning_rate": ("learning_rate", "Learning rate of the last update"),
    "step": ("step", "Updates since the run began"),
    "bytes_seen": ("seen_bytes", "Bytes predicted since the run began"),
    "skipped_steps": ("skipped_steps", "Updates left out since the run began, their gradient not being finite"),
}
# those of a run that learns labels
_LABEL_GAUGES = {
    "label_bits": ("label_bits", "Cross-entropy of the labels from all units, bits a byte, lately"),
    "unit_label_bits": ("unit_label_bits", "Cross-entropy of the labels from the sentiment unit, bits a byte, lately"),
    "validation_label_accuracy": ("label_accuracy_ratio", "Held-out reviews whose label all units name"),
    "validation_unit_accuracy": ("unit_accuracy_ratio", "Held-out reviews whose label the sentiment unit names"),
}
_SPLITS = {"bits_per_byte": "train", "validation_bits_per_byte": "validation"}


class Metrics:
    """The metrics of one run, in a registry of their own."""

    def __init__(self, labels: bool = True) -> None:
        """labels: those of a run that learns labels too."""
        self.registry = registry = CollectorRegistry()
        prefix = "neuron_training_"
        self._gauges = {
            field: Gauge(prefix + name, help_, registry=registry)
            for field, (name, help_) in (_GAUGES | (_LABEL_GAUGES if labels else {})).items()
        }
        self._bits = Gauge(prefix + "bits_per_byte", "Bits per byte, lately", ["split"], registry=registry)
        self._waited = Counter(prefix + "data_wait_seconds", "Time without a window to train on", registry=registry)
        self.snapshot_pause = Summary(
            prefix + "snapshot_pause_seconds", "Time that training stood still for a snapshot", registry=registry
        )
        self.snapshot_write = Summary(
            prefix + "snapshot_write_seconds", "Time that a snapshot was written for", registry=registry
        )
        self.snapshot_failures = Counter(
            prefix + "snapshot_failures", "Snapshots that could not be written", registry=registry
        )
        self.publishes = Counter(prefix + "publishes", "Snapshots published", ["outcome"], registry=registry)
        for outcome in ("ok", "failed", "skipped"):
            self.publishes.labels(outcome)
        self._events: SummaryWriter | None = None

    def every(self) -> list[MetricWrapperBase]:
        """All of them, in the order in which they are exported."""
        found = [*self._gauges.values(), self._bits, self._waited, self.snapshot_pause, self.snapshot_write]
        return [*found, self.snapshot_failures, self.publishes]

    def serve(self, host: str, port: int) -> None:
        """Answer GET /metrics until the process ends. Raises OSError if the port is taken."""
        start_http_server(port, host, self.registry)

    def write_events(self, directory: Path, step: int) -> None:
        """Write TensorBoard event files; what former processes of the run wrote after `step` is hidden.

        Raises ModuleNotFoundError if tensorboard is not installed.
        """
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - takes seconds to load, and is an option

        # Otherwise steps that are redone after a kill would be drawn twice.
        self._events = SummaryWriter(str(directory), purge_step=step + 1)

    def update(self, record: dict[str, Any], waited_s: float) -> None:
        """Set the metrics from the record of an update. waited_s: for its data."""
        for field, gauge in self._gauges.items():
            if field in record:
                gauge.set(record[field])
        for field, split in _SPLITS.items():
            if field in record:
                self._bits.labels(split).set(record[field])
        self._waited.inc(waited_s)

    def log(self, record: dict[str, Any]) -> None:
        """Write a record to the event files. Raises OSError."""
        if self._events is None:
            return
        for field, value in record.items():
            if field != "step" and isinstance(value, int | float) and math.isfinite(value):
                split = _SPLITS.get(field)
                tag = field if split is None else f"bits_per_byte/{split}"
                self._events.add_scalar(tag, value, record["step"])
        self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            with contextlib.suppress(OSError):  # `log` has raised it, and has left nothing to write
                self._events.close()
            self._events = None
