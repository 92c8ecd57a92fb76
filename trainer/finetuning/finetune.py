"""Fine-tuning on a task: `Finetuning` trains all weights of a checkpoint to predict the labels of texts.

As Dai & Le 2015 (arXiv 1511.01432) and Kant et al. 2018 (arXiv 1812.01207) do, with the loss of the language model kept
as an auxiliary. A run (trainer/run/train.py) reads a stream on lanes; this reads text by text: a batch holds texts of
about one length, read whole, window after window, for one update. The label is read off the cell at every byte, later
bytes weighing more; so the read-out of the final cell is the head that is published (tuned.py). Epoch 0 is the model as
it came, with read-outs fitted on its cells (start.py): where no other is better, it is published.

The directory of a fine-tuning has `options.json`, `log.jsonl` and `epochs/step-N`, the snapshots of its last epoch and
of its best. Stopped at any time, it continues from its last epoch, on a CPU to the bit like one that was not stopped.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.checkpoints import checkpoint, volumes
from model.heads.classifier import are_sentiment
from model.network.cells import State
from model.network.language_model import LanguageModel
from model.network.objective import Objective, ReadOut, Targets, label_bits
from model.network.sequence import Window
from texts.labelled import Labelled
from trainer.finetuning.options import FinetuningOptions
from trainer.finetuning.start import fit_read_out, places
from trainer.finetuning.task import NOTHING, Task
from trainer.run import snapshot
from trainer.run.distributed import ALONE
from trainer.run.initial import READ_OUT_RATE
from trainer.run.journal import OnRecord
from trainer.run.lock import locked
from trainer.run.options import OPTIONS, TrainingError, compute_dtype
from trainer.run.snapshot import Progress, Snapshot
from trainer.run.threads import set_threads

MOST_READ = 10_000  # training texts, for what is made of their features

_WARMUP_UPDATES = 30
_CLIP_NORM = 1.0


class Stopped(Exception):
    """`stop` ended what was going on."""


@dataclass(frozen=True)
class Scores:
    """On the validation texts. accuracies: of the most probable label, by all units and by the sentiment unit."""

    bits_per_byte: float
    accuracy: float
    unit_accuracy: float


class Finetuning:
    """One fine-tuning: `begin`, then `run`."""

    def __init__(
        self, directory: Path, options: FinetuningOptions, train: Labelled, valid: Labelled, on_log: OnRecord
    ) -> None:
        self.directory = directory
        self.train, self.valid = Task.of(train, options.labels), Task.of(valid, options.labels)
        self._on_log = on_log
        self._stop = threading.Event()
        start = volumes.resolve(Path(options.start_from))
        loaded = checkpoint.read(start)
        self.options = replace(options, checkpoint_sha256=checkpoint.manifest_sha256(start))
        self.start = loaded.manifest
        self.device = ALONE.device(options.device)
        model = loaded.model.to(self.device)
        self.of_sentiment = self.start.sentiment is not None and are_sentiment(options.labels)
        unit = self.start.sentiment.unit if self.start.sentiment is not None else 0
        read_out = ReadOut(self.start.architecture.units, len(options.labels), unit)
        unit_weight = options.unit_weight if self.of_sentiment else 0.0
        self.objective = Objective(model, read_out, 1.0, unit_weight, options.language_weight).to(self.device)
        rates = [(model, options.learning_rate), (read_out, READ_OUT_RATE)]
        groups = [{"params": list(part.parameters()), "lr": rate, "initial_lr": rate} for part, rate in rates]
        self.optimizer = torch.optim.Adam(groups, fused=True)
        dtype = compute_dtype(options.dtype, self.device)
        self._runner = Window(self.start.architecture.cell, dtype, options.fuse)
        self.progress = Progress()  # step: updates; bytes_seen: of texts
        self.epoch = 0
        self._per_epoch = len(self.train.batches(options.rows))  # updates
        self.updates = self._per_epoch * options.epochs

    @classmethod
    def begin(
        cls, directory: Path, options: FinetuningOptions, train: Labelled, valid: Labelled, on_log: OnRecord
    ) -> "Finetuning":
        """A new one, or the one that `directory` holds where it left off. Raises TrainingError if that is another."""
        made = cls(directory, options, train, valid, on_log)
        directory.mkdir(parents=True, exist_ok=True)
        asked = made.options
        with locked(directory):
            if not (directory / OPTIONS).exists():
                asked.write(directory)
            stored = FinetuningOptions.read(directory)
        if stored != asked:
            different = next(f.name for f in fields(asked) if getattr(stored, f.name) != getattr(asked, f.name))
            raise TrainingError(
                f"{directory} holds another fine-tuning, which differs in {different}: delete it, or name another "
                "directory with --run"
            )
        if done := made._epochs():
            made._restore(done[-1])
        return made

    def run(self, on_update: Callable[[int], None] = lambda _: None) -> bool:
        """Train until the epochs are over or the accuracy no longer rises; False if `stop` ended it before.

        on_update: gets the number of updates done. After it, `best` has the weights of the best epoch.
        """
        try:
            self._run(on_update)
        except Stopped:
            done = self._epochs()
            self.epoch = self._epoch_of(done[-1]) if done else 0  # an epoch that is not validated is not saved
            return False
        return True

    def _run(self, on_update: Callable[[int], None]) -> None:
        with ExitStack() as stack:
            if self.device.type == "cpu":
                stack.callback(torch.set_num_threads, torch.get_num_threads())
                set_threads(self.start.architecture.cell, self.start.architecture.units, self.options.rows)
            stack.enter_context(locked(self.directory))
            if not self._epochs():
                self._fit_read_out()
                self._end_epoch({})
            while self.epoch < self.options.epochs and not self._patience_is_over():
                losses = self._train_epoch(on_update)
                self.epoch += 1
                self._end_epoch(losses)

    def stop(self) -> None:
        """Ask `run` to return after the current batch; the epoch is done again. `validate` raises Stopped."""
        self._stop.set()

    def best(self) -> LanguageModel:
        """Load the model of the best epoch."""
        best = self._best()
        if best is None:
            raise TrainingError(f"{self.directory} has no epoch yet: run it first")
        self._restore(best)
        return self.objective.model

    @torch.no_grad()
    def validate(self) -> Scores:
        bits, predicted, right = 0.0, 0, torch.zeros(2)
        for chosen in self.valid.batches(self.options.rows):
            self._go_on()
            for hidden, cells, targets, ends in self._read(self.valid, chosen):
                count = int((targets.bytes != NOTHING).sum())
                bits += float(self.objective.model.bits(hidden, targets.bytes)) * count
                predicted += count
                right += torch.stack([((found == targets.classes) & ends).sum().cpu() for found in self._named(cells)])
        texts = len(self.valid.texts)
        return Scores(bits / predicted, float(right[0]) / texts, float(right[1]) / texts)

    def _read(self, task: Task, chosen: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor, Targets, Tensor]]:
        """Hidden and cell after every byte of a batch, targets, and whether a text ends there, window by window."""
        state = self.objective.model.zero_state(len(chosen))
        for window, targets, ends in task.windows(chosen, self.options.window):
            hidden, cells, state = self.objective.read(window.to(self.device), state, self._runner)
            on_device = Targets(*(part.to(self.device) for part in targets if part is not None))
            yield hidden, cells, on_device, ends.to(self.device)

    def _named(self, cells: Tensor) -> list[Tensor]:
        """The most probable label by all units and by the one, (steps, rows) each."""
        return [logits.argmax(-1) for logits in self.read_out(cells)]

    @property
    def read_out(self) -> ReadOut:
        if self.objective.read_out is None:
            raise RuntimeError("a fine-tuning has a read-out")
        return self.objective.read_out

    def _fit_read_out(self) -> None:
        some = self.train.part(MOST_READ)
        at = places(some.lengths, np.random.default_rng(self.options.seed))
        train = (self._cells(some, at), some.classes)
        valid = (self._cells(self.valid, self.valid.lengths[None] - 1), self.valid.classes)
        fit_read_out(self.read_out, train, valid, self.options.labels, self.of_sentiment)

    @torch.no_grad()
    def _cells(self, task: Task, at: NDArray[np.int64]) -> NDArray[np.float32]:
        """Cells after some bytes of every text, (texts, places, units). at: (places, texts)."""
        found = np.empty((len(task.texts), len(at), self.start.architecture.units), np.float32)
        for chosen in task.batches(self.options.rows):
            self._go_on()
            begin = 0
            for _, cells, *_ in self._read(task, chosen):
                within = at[:, chosen] - begin
                place, row = np.nonzero((within >= 0) & (within < len(cells)))
                found[chosen[row], place] = cells[within[place, row], row].float().cpu().numpy()
                begin += len(cells)
        return found

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _train_epoch(self, on_update: Callable[[int], None]) -> dict[str, float]:
        """The means of its losses."""
        generator = np.random.default_rng([self.options.seed, self.epoch])
        sums, batches = torch.zeros(self.objective.terms), self.train.batches(self.options.rows, generator)
        for chosen in batches:
            self._go_on()
            sums += self._update(chosen)
            on_update(self.progress.step)
        bits, label_bits, unit_bits = (sums / len(batches)).tolist()
        return {"bits_per_byte": bits, "label_bits": label_bits, "unit_label_bits": unit_bits}

    def _end_epoch(self, losses: dict[str, float]) -> None:
        scores = self.validate()
        self.progress.validation_label_accuracy = scores.accuracy
        self.progress.validation_unit_accuracy = scores.unit_accuracy
        self._save()
        self._note({"epoch": self.epoch, **losses, **{f"validation_{k}": v for k, v in asdict(scores).items()}})

    def _update(self, chosen: NDArray[np.int64]) -> Tensor:
        """Learn from a batch. Its losses: bits per byte, and bits a text of the label by all units and by the one."""
        means = torch.zeros(self.objective.terms)
        self.optimizer.zero_grad(set_to_none=False)
        predicted = sum(len(self.train.texts[index]) - 1 for index in chosen)
        for hidden, cells, targets, _ in self._read(self.train, chosen):
            share = int((targets.bytes != NOTHING).sum()) / predicted
            bits = share * self.objective.model.bits(hidden, targets.bytes)
            labels = [len(cells) * self._label_bits(logits, targets) for logits in self.read_out(cells)]
            losses = (bits, *labels)
            self.objective.total(losses).backward()  # type: ignore[no-untyped-call]
            means += torch.stack(losses).detach().cpu()
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), _CLIP_NORM)
        self.progress.step += 1
        self.progress.bytes_seen += predicted
        if not norm.isfinite():
            self.progress.skipped_steps += 1
            return torch.zeros_like(means)
        warmup = max(1, min(_WARMUP_UPDATES, self.updates // 10))
        rate = min(1.0, self.progress.step / warmup) * (1 - (self.progress.step - 1) / self.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["initial_lr"]
        self.optimizer.step()
        return means

    @staticmethod
    def _label_bits(logits: Tensor, targets: Targets) -> Tensor:
        if targets.classes is None or targets.weights is None:
            raise RuntimeError("the texts of a task have labels")
        return label_bits(logits, targets.classes, targets.weights)

    def _patience_is_over(self) -> bool:
        best = self._best()
        return (
            best is not None and self.progress.step - snapshot.step_of(best) >= self.options.patience * self._per_epoch
        )

    def _best(self) -> Path | None:
        """The epoch with the best accuracy on the validation texts: of equals that of the best unit, then the first."""
        progress = {path: snapshot.read_progress(path)[0] for path in self._epochs()}
        scores = {
            path: (at.validation_label_accuracy or 0.0, self.of_sentiment * (at.validation_unit_accuracy or 0.0))
            for path, at in progress.items()
        }
        return max(scores, key=scores.__getitem__, default=None)

    def _epochs(self) -> list[Path]:
        return snapshot.snapshots(self.directory / "epochs")

    def _save(self) -> None:
        nothing = State(*(torch.zeros(0, self.start.architecture.units) for _ in range(2)))
        tensors = snapshot.gathered(self.objective, [self.optimizer], nothing)
        on_cpu = {name: tensor.cpu() for name, tensor in tensors.items()}
        snapshot.write(self.directory / "epochs", Snapshot(on_cpu, [], self.progress))
        best = self._best()
        snapshot.prune(self.directory / "epochs", 1, () if best is None else (best,))

    def _restore(self, path: Path) -> None:
        snapshot.verify(path)
        self.optimizer.state.clear()  # epoch 0 has none
        _, _, self.progress = snapshot.load(path, self.objective, [self.optimizer])
        self.epoch = self._epoch_of(path)

    def _epoch_of(self, path: Path) -> int:
        return snapshot.step_of(path) // self._per_epoch

    def _note(self, record: dict[str, Any]) -> None:
        with (self.directory / "log.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")
        self._on_log(record)
