"""The journal of a run: every update becomes a record for the metrics, and every ten seconds a line of `log.jsonl`.

On a full disk lines are lost, and said to be; the run goes on.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.run.metrics import Metrics
from trainer.run.snapshot import Progress

OnRecord = Callable[[dict[str, Any]], None]

LOSSES = ("bits_per_byte", "label_bits", "unit_label_bits")  # as `Objective.losses` orders them
_LOG_EVERY_S = 10.0


class Journal:
    """The journal of a run, kept only by its first process."""

    def __init__(
        self,
        directory: Path,
        progress: Progress,
        on_log: OnRecord,
        on_update: OnRecord,
        mfu_of_one_byte_per_s: float,
        labels: bool = False,
    ) -> None:
        """on_log, on_update: get every record that is logged, of every update; labels: whether the run learns them."""
        self.metrics = Metrics(labels)
        self._path = directory / "log.jsonl"
        self._progress = progress
        self._on_log = on_log
        self._on_update = on_update
        self._mfu_of_one_byte_per_s = mfu_of_one_byte_per_s
        self._last: dict[str, Any] = {}
        self._forget()
        try:
            self.metrics.write_events(directory / "tensorboard", progress.step)
        except (ModuleNotFoundError, OSError) as error:
            why = f"{error.name} is not installed" if isinstance(error, ModuleNotFoundError) else error
            self.warn(f"no TensorBoard events are written: {why}")

    def update(self, losses: list[float], norm: float, rate: float, waited_s: float, validated: bool) -> None:
        """Record one update: its losses (`Objective.losses`), gradient norm, learning rate and time waited for data."""
        progress, now = self._progress, time.monotonic()
        self._losses.append(losses)
        self._waited_s += waited_s
        bytes_per_s = (progress.bytes_seen - self._bytes_at_log) / max(now - self._logged_at, 1e-9)
        self._last = {
            "step": progress.step,
            "bytes_seen": progress.bytes_seen,
            **{
                name: sum(found) / len(found)
                for name, found in zip(LOSSES, zip(*self._losses, strict=True), strict=False)
            },
            "gradient_norm": norm,
            "learning_rate": rate,
            "seconds": round(progress.seconds, 1),
            "skipped_steps": progress.skipped_steps,
            "bytes_per_s": round(bytes_per_s),
            "mfu": round(bytes_per_s * self._mfu_of_one_byte_per_s, 4),
            "data_wait_s": round(self._waited_s, 3),
        }
        if validated:
            held_out = progress.validation_bits_per_byte
            self._last["validation_bits_per_byte"] = math.nan if held_out is None else held_out
            if progress.validation_label_accuracy is not None:
                self._last["validation_label_accuracy"] = progress.validation_label_accuracy
                self._last["validation_unit_accuracy"] = progress.validation_unit_accuracy
        self.metrics.update(self._last, waited_s)
        self._on_update(self._last)
        if validated or now - self._logged_at >= _LOG_EVERY_S:
            self._log_last()

    def warn(self, message: str) -> None:
        """Log a problem that does not end the run."""
        self._write({"step": self._progress.step, "warning": message})

    def close(self) -> None:
        if self._losses:
            self._log_last()
        self.metrics.close()

    def _log_last(self) -> None:
        try:
            self.metrics.log(self._last)
        except OSError as error:  # the writer's thread has ended by it
            self.metrics.close()
            self.warn(f"TensorBoard's events end here, until the run is resumed: {error}")
        self._write(self._last)
        self._forget()

    def _forget(self) -> None:
        self._losses: list[list[float]] = []
        self._waited_s = 0.0
        self._logged_at, self._bytes_at_log = time.monotonic(), self._progress.bytes_seen

    def _write(self, record: dict[str, Any]) -> None:
        # JSON has no NaN: null.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        line = json.dumps(finite, allow_nan=False).encode() + b"\n"
        try:
            with self._path.open("ab", buffering=0) as log:
                size = log.tell()
                if log.write(line) < len(line):
                    log.truncate(size)  # a part would spoil the next line
                    raise OSError("there is no room for a line")
        except OSError as error:
            self._on_log({"step": self._progress.step, "warning": f"{self._path} lacks what follows: {error}"})
        self._on_log(finite)
