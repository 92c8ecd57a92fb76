"""The training loop: windows of every lane with carried state, one update, snapshots and exact resume.

A run is a directory: `options.json`, `log.jsonl`, `tensorboard/`, `snapshots/step-N`. It can be copied and resumed
elsewhere, on any number of processes that divides the lanes. With several machines all must see the same directory:
the first process writes it, the others read it to resume.

With `accumulate` k an update reads k successive windows of each lane, carries the state from one to the next, and
averages their gradients: as many bytes as k times the lanes would read.
"""

import math
import shutil
import signal
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.network.backpropagation import Backpropagation
from model.network.cells import GATES, State
from model.network.language_model import LanguageModel
from model.network.objective import Targets
from model.network.sequence import Window
from trainer.corpus.corpus import Corpus, CorpusError
from trainer.run import schedule, snapshot
from trainer.run.autopublish import Publish
from trainer.run.bookkeeping import Bookkeeper
from trainer.run.distributed import ALONE, Gradients, World
from trainer.run.initial import completed, initial_model, make_objective, make_optimizers, suitable_lanes
from trainer.run.journal import Journal, OnRecord
from trainer.run.lanes import Ahead, Cursor, Lanes
from trainer.run.lock import locked
from trainer.run.options import OPTIONS, Options, TrainingError, compute_dtype
from trainer.run.peak import measured_peak_flops
from trainer.run.saving import Saver
from trainer.run.snapshot import Snapshot, SnapshotError
from trainer.run.threads import set_threads
from trainer.run.validation import Validated, Validation


class Run:
    """One training run: each of its processes has such an object, and all call the same methods in the same order."""

    def __init__(self, directory: Path, options: Options, on_log: OnRecord, world: World = ALONE) -> None:
        """Called by `create` and `resume`. The parameters have no values yet."""
        self.directory = directory
        self.world = world
        self._on_log = on_log
        self._stop = threading.Event()
        if options.lanes % world.size:
            raise TrainingError(
                f"{options.lanes} lanes cannot be shared equally by {world.size} processes: make --lanes a multiple of "
                f"{world.size} or start another number of processes"
            )
        corpus = Corpus(Path(options.corpus))
        if options.corpus_sha256 not in ("", corpus.sha256):
            raise TrainingError(
                f"{corpus.directory} is not the corpus that the run was made with: the SHA-256 of its manifest is "
                f"{corpus.sha256}, not {options.corpus_sha256}. Name the right one with --corpus"
            )
        self.options = options = replace(options, corpus_sha256=corpus.sha256)
        labels = corpus.manifest.labels
        if options.learns_labels and labels is None:
            raise TrainingError(f"{corpus.directory} has no labels: build it with --labels or --label-field")
        self.device = world.device(options.device)
        self.dtype = compute_dtype(options.dtype, self.device)
        self._mine = world.share(options.lanes)
        self._validation = Validation(corpus, options, self._mine, self.device)
        lanes = Lanes(corpus, options.lanes, options.window, self._mine, options.skip_bytes, options.learns_labels)
        self.lanes = Ahead(lanes, self.device)
        self.model = LanguageModel(options.architecture).to(self.device)
        self.objective = make_objective(self.model, options, 0 if labels is None else len(labels.classes))
        self.gradients = Gradients(self.objective, world, self.objective.terms)
        self.optimizers = make_optimizers(self.objective, options)
        self._window = Window(options.cell, self.dtype, options.fuse, options.segment, options.triton)
        self._back = Backpropagation(self.objective, self._window, options.graph)
        self.state = self.model.zero_state(len(self._mine))
        self.progress = snapshot.Progress()
        self._saver = Saver(directory / "snapshots", options.keep)

    @classmethod
    def create(cls, directory: Path, options: Options, on_log: OnRecord, world: World = ALONE) -> "Run":
        """`on_log` gets every record that goes to the log, in the first process."""
        taken = f"{directory} holds a run already: continue with --resume, or name a new directory"
        if world.any(world.rank == 0 and (directory / OPTIONS).exists()) == [True]:
            raise TrainingError(taken)
        if options.lanes == 0:
            shards, device = len(Corpus(Path(options.corpus)).training), world.device(options.device)
            options = replace(options, lanes=suitable_lanes(options.units, shards, device))
        run = cls(directory, completed(options), on_log, world)
        run._begin()
        if world.rank == 0:
            directory.mkdir(parents=True, exist_ok=True)
            with locked(directory):
                if (directory / OPTIONS).exists():
                    raise TrainingError(taken)
                run.options.write(directory)
        return run

    @classmethod
    def resume(cls, directory: Path, on_log: OnRecord, world: World = ALONE, **changes: Any) -> "Run":
        """Continue from the newest snapshot that is whole. `changes`: options that may differ from then on."""
        stored = Options.read(directory)
        options = stored.with_changes(changes)
        try:
            run = cls(directory, options, on_log, world)
        except CorpusError as error:
            raise TrainingError(f"{error}. If the corpus has moved, name its place with --corpus") from error
        step = world.from_first(run._newest_whole() if world.rank == 0 else 0)
        if step < 0:
            run._begin()
        else:
            run._restore(directory / "snapshots" / f"step-{step}")
        if world.rank == 0 and run.options != stored:
            with locked(directory):  # they are not those of a process that trains the run now
                run.options.write(directory)
        return run

    def schedule(self) -> float:
        """What the learning rates of the next update are multiplied by."""
        return schedule.rate_factor(self.options, self.progress)

    def step(self) -> tuple[list[float], float]:
        """One update. Returns the losses (`Objective.losses`), of which the first is bits per byte, and the gradient
        norm before clipping, over all processes."""
        self.gradients.zero()
        for window, targets, begins in self._next_windows():
            state = State(*(part.masked_fill(begins, 0.0) for part in self.state))
            losses, self.state = self._back.run(window, targets, state)
            self.gradients.add_losses(losses)
        means, norm = self.gradients.average(self.options.accumulate)
        if math.isfinite(norm):
            self.gradients.clip(norm, self.options.clip_norm)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * self.schedule()
                optimizer.step()
        else:
            self.progress.skipped_steps += 1
            # The cause may have reached the carried state, and would stay there.
            self.state = self.model.zero_state(len(self._mine))
        self.progress.step += 1
        self.progress.bytes_seen += self.options.update_bytes
        return means, norm

    def validate(self) -> Validated:
        """Measure the model on held-out text (collective)."""
        return self._validation.run(self.objective, self._window, self.world)

    def save(self) -> Path:
        """Write a snapshot, if there is none of this step, and wait until it is durable."""
        path = self.directory / "snapshots" / f"step-{self.progress.step}"
        taken = self._snapshot()
        if self.world.rank == 0 and not path.exists():
            self._saver.save(taken)
            self._saver.collect(wait=True)
        self.world.any(False)  # no process continues before it is written
        return path

    def stop(self) -> None:
        """Ask all processes to save and return from `train` after the current update."""
        self._stop.set()

    def train(
        self,
        metrics_at: tuple[str, int] | None = None,
        peak_flops: float | None = None,
        on_update: OnRecord = lambda _: None,
        publish: Publish | None = None,
    ) -> None:
        """Train to the end, or until `stop` or SIGTERM or SIGINT in any process; the last step is always saved.

        metrics_at: host and port where the first process serves Prometheus; peak_flops: FLOP/s of one device,
        measured by default; on_update: gets the record of every update in the first process; publish: publishes a
        snapshot, needed where the options name a volume.
        """
        if self.options.publish_to is not None and publish is None:
            raise ValueError(f"the run publishes to {self.options.publish_to}: hand in how, as `publish`")
        with ExitStack() as stack:
            if self.device.type == "cpu":
                stack.callback(torch.set_num_threads, torch.get_num_threads())
                set_threads(self.options.cell, self.options.units, len(self._mine), self.options.threads)
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGTERM, signal.SIGINT):
                    stack.callback(signal.signal, number, signal.signal(number, lambda *_: self.stop()))
            book = None
            if self.world.rank == 0:
                stack.enter_context(locked(self.directory))
                self._refuse_changes()
                peak = peak_flops or self._measured_peak()
                mfu_of_one_byte_per_s = 6 * sum(map(torch.numel, self.model.parameters())) / (peak * self.world.size)
                records, labels = (self._on_log, on_update), self.options.learns_labels
                journal = Journal(self.directory, self.progress, *records, mfu_of_one_byte_per_s, labels)
                book = Bookkeeper(self.directory, self.options, journal, self._saver, publish)
                stack.callback(book.close)
                if metrics_at is not None:
                    journal.metrics.serve(*metrics_at)
            self._train(book)

    def _train(self, book: Bookkeeper | None) -> None:
        progress, options = self.progress, self.options
        started, seconds_before = time.monotonic(), progress.seconds
        [stop] = self.world.any(self._stop.is_set())
        while (done := schedule.done(options, progress)) < 1 and not stop:
            waited_s, rate = self.lanes.waited_s, options.learning_rate * self.schedule()
            losses, norm = self.step()
            progress.seconds = seconds_before + time.monotonic() - started
            if options.total_seconds:  # all processes must agree
                progress.seconds = self.world.from_first(round(1000 * progress.seconds)) / 1000
            validated = schedule.validation_due(options, progress, done)
            best = validated and self._note_validation()
            if book is not None:
                book.note(losses, norm, rate, self.lanes.waited_s - waited_s, validated)
            publish = options.publish_every_steps > 0 and progress.step % options.publish_every_steps == 0
            stop, due = self.world.any(self._stop.is_set(), book is not None and book.snapshot_due(best))
            if due or publish:
                taken = self._snapshot()
                if book is not None:
                    book.save(taken, publish)
        if book is not None:
            book.settle()
        last = self.save()
        if book is not None and not stop:
            book.publish_last(last, self._stop)

    def _next_windows(self) -> list[tuple[Tensor, Targets, Tensor]]:
        """Those of an update. Where a shard is gone, the run is saved as it was before the update."""
        cursors = self.lanes.cursors
        try:
            return [self.lanes.next() for _ in range(self.options.accumulate)]
        except Exception:
            self.lanes.cursors = cursors
            self._save_before_an_error()
            raise

    def _save_before_an_error(self) -> None:
        if self.world.size > 1:  # the others would not take part
            return
        try:
            self._saver.collect(wait=True)
        except OSError as error:
            self._on_log({"step": self.progress.step, "warning": f"a snapshot could not be written: {error}"})
        self.save()

    def _note_validation(self) -> bool:
        """Validate and record it. Returns whether the model is the best so far."""
        progress = self.progress
        try:
            found = self.validate()
        except Exception:
            self._save_before_an_error()
            raise
        bits, former = found.bits_per_byte, progress.best_validation_bits_per_byte
        progress.validation_step = progress.step
        progress.validation_bits_per_byte = bits if math.isfinite(bits) else None
        progress.validation_label_accuracy = found.label_accuracy
        progress.validation_unit_accuracy = found.unit_accuracy
        if not math.isfinite(bits) or (former is not None and bits >= former):
            return False
        progress.best_validation_bits_per_byte = bits
        return True

    @torch.no_grad()
    def _begin(self) -> None:
        for parameter, value in zip(self.model.parameters(), initial_model(self.options).parameters(), strict=True):
            parameter.copy_(value)
        # Machines differ in the last bits of an orthogonal matrix.
        self.world.broadcast(parameter.detach() for parameter in self.objective.parameters())

    def _snapshot(self) -> Snapshot:
        """Of all processes; its tensors are not copies (collective)."""
        state = State(*(self.world.joined(part) for part in self.state))
        mine = torch.tensor([(cursor.shard, cursor.offset) for cursor in self.lanes.cursors])
        cursors = [Cursor(*cursor) for cursor in self.world.joined(mine).tolist()]
        return Snapshot(snapshot.gathered(self.objective, self.optimizers, state), cursors, self.progress)

    def _restore(self, path: Path) -> None:
        state, cursors, self.progress = snapshot.load(path, self.objective, self.optimizers)
        lanes = slice(self._mine.start, self._mine.stop)
        self.state = State(*(part[lanes].to(self.device) for part in state))
        self.lanes.restore(cursors[lanes])

    def _newest_whole(self) -> int:
        """The step of the newest snapshot that is not damaged, -1 if none was ever written."""
        found = snapshot.snapshots(self.directory / "snapshots")
        for path in reversed(found):
            try:
                snapshot.verify(path)
            except SnapshotError as error:
                self._on_log({"step": 0, "warning": f"{error}; the snapshot before it is used"})
            else:
                return snapshot.step_of(path)
        if found:
            raise TrainingError(
                f"every snapshot of {self.directory} is damaged: delete {found[0].parent} to start over"
            )
        return -1

    def _refuse_changes(self) -> None:
        """Refuse what another process has made of the run since, and set damaged later snapshots aside."""
        if Options.read(self.directory) != self.options:
            raise TrainingError(f"another process has changed {self.directory / OPTIONS} since: use --resume")
        for path in snapshot.snapshots(self.directory / "snapshots"):
            if snapshot.step_of(path) > self.progress.step:
                try:
                    snapshot.verify(path)
                except SnapshotError:
                    shutil.rmtree(aside := path.with_name(path.name + ".damaged"), ignore_errors=True)
                    path.rename(aside)
                else:
                    raise TrainingError(f"another process has written {path} since: continue from there with --resume")

    def _measured_peak(self) -> float:
        rows, outputs = len(self._mine) * self.options.window, GATES[self.options.cell] * self.options.units
        return measured_peak_flops(self.device, self.dtype, rows, self.options.units, outputs)
