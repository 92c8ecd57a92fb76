"""The training loop: windows of every lane with carried state, Adam, snapshots and exact resume.

A run is a directory: `options.json`, `log.jsonl`, `snapshots/step-N`. It can be copied and resumed elsewhere.
"""

import json
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.cells import CellName, State
from model.durable import replace_file
from model.language_model import Architecture, LanguageModel
from model.matrix import fast_dtype
from model.sequence import Window
from trainer import snapshot
from trainer.corpus import Corpus
from trainer.lanes import Lanes

Report = Callable[[dict[str, Any]], None]


class TrainingError(Exception):
    """A run cannot start or go on; the message says what to change."""


@dataclass(frozen=True)
class Options:
    """Everything that determines a run. Defaults are the paper's where it names them (arXiv 1704.01444, section 3)."""

    corpus: str
    cell: CellName = "mlstm"
    units: int = 4096
    embedding_size: int = 64
    embedding_std: float = 0.02
    lanes: int = 128
    window: int = 256  # bytes of every lane an update; gradients do not reach further back
    total_bytes: int = 1_000_000_000  # the learning rate reaches zero here
    learning_rate: float = 5e-4
    warmup_steps: int = 0
    clip_norm: float = 1.0  # replications of the paper needed it
    seed: int = 0
    dtype: str = "auto"  # of products: float32, bfloat16, or what the device multiplies fastest
    fuse: bool = True  # compile the element-wise functions
    device: str = "cpu"
    snapshot_every_s: float = 300.0
    validate_every_bytes: int = 2_000_000
    validation_bytes: int = 262_144
    keep: int = 2  # snapshots


class Run:
    """One training run in one process."""

    def __init__(self, directory: Path, options: Options, report: Report) -> None:
        """`report` gets every record that goes to the log."""
        self.directory = directory
        self.options = options
        self._report = report
        self._stop = threading.Event()
        device = torch.device(options.device)
        dtype = fast_dtype(device) if options.dtype == "auto" else getattr(torch, options.dtype)

        corpus = Corpus(Path(options.corpus))
        self.lanes = Lanes(corpus, options.lanes, options.window)
        self._validation = corpus.read(corpus.validation)
        usable = min(len(self._validation), options.validation_bytes)
        self._validation_steps = (usable - 1) // options.lanes // options.window * options.window
        if self._validation_steps == 0:
            raise TrainingError(
                f"the validation shard gives {usable} bytes, too few for {options.lanes} lanes x {options.window}: "
                "build the corpus with fewer --shards"
            )
        self.model = LanguageModel(Architecture(options.cell, options.units, options.embedding_size))
        self.model.reset(torch.Generator().manual_seed(options.seed), options.embedding_std)
        self.model.to(device)
        self._window = Window(options.cell, dtype, options.fuse)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=options.learning_rate, fused=True)
        self.state = self.model.zero_state(options.lanes)
        self.progress = snapshot.Progress()
        self.rate = 0.0  # learning rate of the last step

    @classmethod
    def create(cls, directory: Path, options: Options, report: Report) -> "Run":
        if (directory / "options.json").exists():
            raise TrainingError(f"{directory} holds a run already: resume it, or name a new directory")
        directory.mkdir(parents=True, exist_ok=True)
        run = cls(directory, options, report)
        replace_file(directory / "options.json", json.dumps(asdict(options), indent=1))
        return run

    @classmethod
    def resume(cls, directory: Path, report: Report, total_bytes: int | None = None) -> "Run":
        """Go on from the newest snapshot; `total_bytes` moves the end of the run."""
        try:
            options = Options(**json.loads((directory / "options.json").read_text()))
        except FileNotFoundError as error:
            raise TrainingError(f"{directory} holds no run: it has no options.json") from error
        if total_bytes is not None:
            options = replace(options, total_bytes=total_bytes)
            replace_file(directory / "options.json", json.dumps(asdict(options), indent=1))
        run = cls(directory, options, report)
        found = snapshot.snapshots(directory / "snapshots")
        if found:
            run.state, cursors, run.progress = snapshot.load(found[-1], run.model, run.optimizer)
            run.lanes.restore(cursors)
        return run

    def learning_rate(self) -> float:
        """Linear warm-up, then linear to zero at `total_bytes`."""
        left = max(0.0, 1.0 - self.progress.bytes_seen / self.options.total_bytes)
        warm = min(1.0, (self.progress.step + 1) / max(1, self.options.warmup_steps))
        return self.options.learning_rate * warm * left

    def step(self) -> tuple[float, float]:
        """One update. Returns bits per byte and the gradient norm before clipping."""
        block, begins = self.lanes.next()
        bytes_ = torch.from_numpy(block.astype(np.int64)).to(self.state.cell.device)
        fresh = torch.from_numpy(begins).to(self.state.cell.device)[:, None]
        state = State(self.state.cell.masked_fill(fresh, 0.0), self.state.hidden.masked_fill(fresh, 0.0))
        self.rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        loss, self.state = self.model.loss(bytes_[:-1], bytes_[1:], state, self._window)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm))
        if math.isfinite(norm):
            self.optimizer.step()
        else:
            self.progress.skipped_steps += 1
            # What made the gradient so may have reached the carried state, and would stay there.
            self.state = self.model.zero_state(self.options.lanes)
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.progress.bytes_seen += self.options.lanes * self.options.window
        return float(loss.detach()), norm

    @torch.no_grad()
    def validate(self) -> float:
        """Bits per byte of the head of the validation shard, read in as many pieces as there are lanes."""
        lanes, window, steps = self.options.lanes, self.options.window, self._validation_steps
        columns = [self._validation[lane * steps : (lane + 1) * steps + 1] for lane in range(lanes)]
        text = torch.from_numpy(np.stack(columns, axis=1).astype(np.int64)).to(self.state.cell.device)
        state, total = self.model.zero_state(lanes), 0.0
        for begin in range(0, steps, window):
            loss, state = self.model.loss(
                text[begin : begin + window], text[begin + 1 : begin + window + 1], state, self._window
            )
            total += float(loss)
        return total / (steps // window)

    def save(self) -> Path:
        where = self.directory / "snapshots"
        path = where / f"step-{self.progress.step}"
        if path.exists():
            return path
        return snapshot.save(
            where, self.model, self.optimizer, self.state, self.lanes.cursors, self.progress, self.options.keep
        )

    def stop(self) -> None:
        """Ask `train` to save and return after the step it is in."""
        self._stop.set()

    def train(self) -> None:
        """Train to `total_bytes`, or until `stop` or SIGTERM or SIGINT; the last step is always saved."""
        handlers = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                handlers[number] = signal.signal(number, lambda *_: self.stop())
        try:
            self._train()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _train(self) -> None:
        started = last_save = last_log = time.monotonic()
        seconds_before, bytes_at_log = self.progress.seconds, self.progress.bytes_seen
        next_validation = self._next_validation()
        losses: list[float] = []
        while self.progress.bytes_seen < self.options.total_bytes and not self._stop.is_set():
            loss, norm = self.step()
            losses.append(loss)
            now = time.monotonic()
            self.progress.seconds = seconds_before + now - started
            record = {
                "step": self.progress.step,
                "bytes_seen": self.progress.bytes_seen,
                "bits_per_byte": sum(losses) / len(losses),
                "gradient_norm": norm,
                "learning_rate": self.rate,
                "seconds": round(self.progress.seconds, 1),
                "skipped_steps": self.progress.skipped_steps,
            }
            if self.progress.bytes_seen >= next_validation:
                record["validation_bits_per_byte"] = self.validate()
                next_validation = self._next_validation()
            if now - last_log >= 10.0 or "validation_bits_per_byte" in record:
                record["bytes_per_s"] = round((self.progress.bytes_seen - bytes_at_log) / (now - last_log))
                self._log(record)
                losses, last_log, bytes_at_log = [], now, self.progress.bytes_seen
            if now - last_save >= self.options.snapshot_every_s:
                self.save()
                last_save = now
        self.save()  # before the validation: whoever sent SIGTERM may not wait for it
        self._log(
            {
                "step": self.progress.step,
                "bytes_seen": self.progress.bytes_seen,
                "validation_bits_per_byte": self.validate(),
                "seconds": round(self.progress.seconds, 1),
                "skipped_steps": self.progress.skipped_steps,
            }
        )

    def _next_validation(self) -> int:
        every = self.options.validate_every_bytes
        return (self.progress.bytes_seen // every + 1) * every

    def _log(self, record: dict[str, Any]) -> None:
        with (self.directory / "log.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")
        self._report(record)
