"""Fine-tuning on a task: `Finetuning` trains all weights of a checkpoint to name the labels of texts.

As Dai & Le 2015 (arXiv 1511.01432) and Kant et al. 2018 (arXiv 1812.01207) do, with the loss of the language model kept
as an auxiliary. Where a run (train.py) reads a stream on lanes, this reads text by text: a batch holds texts of about
one length, read whole, window after window, and answered for by one update. The label is read off the cell, at every
byte, later ones counting more; so the read-out of the final cell is the head of what is published (tuned.py).

The directory of a fine-tuning has `options.json`, `log.jsonl` and `epochs/step-N`, the snapshots of its last epoch and
of its best. Stopped at any time, it goes on from its last epoch, on a CPU to the bit as if it had not been stopped.
"""

import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.checkpoints import checkpoint, volumes
from model.checkpoints.durable import exclusively, replace_file
from model.checkpoints.untrusted import brief, parse_json, read_plain
from model.network.cells import State
from model.network.language_model import LanguageModel
from model.network.matrix import fast_dtype
from model.network.objective import Objective, ReadOut, Targets, label_bits
from model.network.sequence import Window
from model.texts.labelled import Labelled
from model.texts.preparation import prepare
from trainer.run import snapshot
from trainer.run.beginning import READ_OUT_RATE
from trainer.run.options import TrainingError
from trainer.run.snapshot import Progress, Snapshot

OPTIONS = "options.json"
MAX_LABELS = 100

_IGNORED = -100  # a target that torch's cross-entropy leaves out
_WARMUP_UPDATES = 30
_CLIP_NORM = 1.0
_POOL_BATCHES = 50  # texts are sorted by length within so many batches of shuffled ones
_MAX_OPTIONS_BYTES = 2**20
_LOCK_PATIENCE_S = 10.0

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Options:
    """All that determines a fine-tuning. labels: in the order of the head. data_sha256: of the texts and labels."""

    start_from: str
    labels: list[str]
    data_sha256: str
    rows: int = 64  # texts of an update
    window: int = 256  # bytes that gradients reach back
    epochs: int = 6  # at most; the learning rate falls to zero over them
    patience: int = 2  # epochs without a better accuracy on the validation texts before it stops
    learning_rate: float = 3e-4
    language_weight: float = 0.3  # of the bits per byte beside the label bits
    unit_weight: float = 0.5  # of the label bits of the sentiment unit alone; for two labels
    seed: int = 0
    dtype: str = "auto"
    fuse: bool = True
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 2 <= len(self.labels) <= MAX_LABELS:
            raise TrainingError(f"there are {len(self.labels)} different labels, not 2 to {MAX_LABELS}")
        for name in ("rows", "window", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise TrainingError(f"--{name} is {getattr(self, name)}, it must be at least 1")
        for name, least in (("learning_rate", "more than 0"), ("language_weight", ""), ("unit_weight", "")):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (least and value == 0):
                raise TrainingError(f"--{name.replace('_', '-')} is {value}, it must be {least or 'at least 0'}")

    @classmethod
    def read(cls, directory: Path) -> "Options":
        path = directory / OPTIONS
        try:
            raw = parse_json(read_plain(path, _MAX_OPTIONS_BYTES))
            unknown = sorted(raw.keys() - {field.name for field in fields(cls)})
            if unknown:
                raise ValueError(f"{unknown[0]!r} is unknown to this version")
            return cls(**raw)
        except OSError as error:
            raise TrainingError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise TrainingError(f"{path} is not the options of a fine-tuning: {brief(error)}") from error


@dataclass(frozen=True)
class Scores:
    """On the validation texts. accuracies: of the most probable label, by all units and by the sentiment unit."""

    bits_per_byte: float
    accuracy: float
    unit_accuracy: float


class Task:
    """Texts of a task, prepared. classes: (texts,), the index of each label in `labels`."""

    def __init__(self, labelled: Labelled, labels: list[str]) -> None:
        self.texts = [prepare(text) for text in labelled.texts]
        self.classes = np.array([labels.index(label) for label in labelled.labels])

    def batches(self, rows: int, generator: np.random.Generator | None = None) -> list[NDArray[np.int64]]:
        """Indices of texts of about one length, in random order; without a generator the longest first."""
        lengths = np.array([len(text) for text in self.texts])
        if generator is None:
            order = np.argsort(-lengths, kind="stable")
            return [order[begin : begin + rows] for begin in range(0, len(order), rows)]
        shuffled, found = generator.permutation(len(lengths)), []
        for begin in range(0, len(shuffled), rows * _POOL_BATCHES):
            pool = shuffled[begin : begin + rows * _POOL_BATCHES]
            pool = pool[np.argsort(-lengths[pool], kind="stable")]
            found += [pool[first : first + rows] for first in range(0, len(pool), rows)]
        return [found[number] for number in generator.permutation(len(found))]

    def windows(self, chosen: NDArray[np.int64], window: int) -> Iterator[tuple[Tensor, Targets, Tensor]]:
        """A batch, whole, in pieces of `window` bytes: bytes, what is to be predicted there, and where a text ends.

        Byte k of the n of a text weighs 2(k + 1)/(n(n + 1)), so that a text weighs 1; after it there is nothing to
        predict.
        """
        texts = [self.texts[index] for index in chosen]
        lengths = np.array([len(text) for text in texts])
        block = np.zeros((lengths.max() + 1, len(texts)), np.int64)
        for row, text in enumerate(texts):
            block[: len(text), row] = np.frombuffer(text, np.uint8)
        places = np.arange(1, len(block) + 1)[:, None]
        targets = np.where(places[:-1] < lengths, block[1:], _IGNORED)
        weights = np.where(places[:-1] <= lengths, 2 * places[:-1] / (lengths * (lengths + 1)), 0).astype(np.float32)
        classes = np.broadcast_to(self.classes[chosen], targets.shape)
        begins = range(0, len(block) - 2, window)
        for begin in begins:
            # The last byte of all has no next one: alone in a window it would have no bits per byte.
            part = slice(begin, len(block) - 1 if begin == begins[-1] else begin + window)
            arrays = (block[:-1], targets, classes, weights, places[:-1] == lengths)
            text, *labels, ends = (torch.from_numpy(values[part].copy()) for values in arrays)
            yield text, Targets(*labels), ends


class Finetuning:
    """One fine-tuning: `begin`, then `run`."""

    def __init__(self, directory: Path, options: Options, train: Labelled, valid: Labelled, report: Report) -> None:
        self.directory = directory
        self.options = options
        self.train, self.valid = Task(train, options.labels), Task(valid, options.labels)
        self._report = report
        self._stop = threading.Event()
        loaded = checkpoint.read(volumes.resolve(Path(options.start_from)))
        self.start = loaded.manifest
        device = options.device
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        model = loaded.model.to(self.device)
        unit = self.start.sentiment.unit if self.start.sentiment is not None else 0
        read_out = ReadOut(self.start.architecture.units, len(options.labels), unit)
        self.unit_weight = options.unit_weight if len(options.labels) == 2 else 0.0
        self.objective = Objective(model, read_out).to(self.device)
        rates = [(model, options.learning_rate), (read_out, READ_OUT_RATE)]
        groups = [{"params": list(part.parameters()), "lr": rate, "initial_lr": rate} for part, rate in rates]
        self.optimizer = torch.optim.Adam(groups, fused=True)
        dtype = fast_dtype(self.device) if options.dtype == "auto" else getattr(torch, options.dtype)
        self._runner = Window(self.start.architecture.cell, dtype, options.fuse)
        self.progress = Progress()  # step: updates; bytes_seen: of texts
        self.epoch = 0
        self._per_epoch = len(self.train.batches(options.rows))  # updates
        self.updates = self._per_epoch * options.epochs

    @classmethod
    def begin(cls, directory: Path, options: Options, train: Labelled, valid: Labelled, report: Report) -> "Finetuning":
        """A new one, or the one that `directory` holds where it left off. Raises TrainingError if that is another."""
        if (directory / OPTIONS).exists():
            stored = Options.read(directory)
            if stored != options:
                different = next(f.name for f in fields(options) if getattr(stored, f.name) != getattr(options, f.name))
                raise TrainingError(
                    f"{directory} holds another fine-tuning, which differs in {different}: delete it, or name another "
                    "directory with --run"
                )
        else:
            directory.mkdir(parents=True, exist_ok=True)
            replace_file(directory / OPTIONS, json.dumps(asdict(options), indent=1))
        made = cls(directory, options, train, valid, report)
        if done := made._epochs():
            made._restore(done[-1])
        return made

    def run(self, on_update: Callable[[int], None] = lambda _: None) -> bool:
        """Train until the epochs are over or the accuracy no longer rises; whether that is so, and not `stop`.

        on_update: gets the number of updates done. Then `best` holds the weights of the best epoch.
        """
        with exclusively(self.directory / "lock", _LOCK_PATIENCE_S):
            while self.epoch < self.options.epochs and not self._patience_is_over():
                losses = self._train_epoch(on_update)
                if losses is None:
                    return False
                self.epoch += 1
                scores = self.validate()
                self.progress.validation_label_accuracy = scores.accuracy
                self.progress.validation_unit_accuracy = scores.unit_accuracy
                self._save()
                self._note({"epoch": self.epoch, **losses, **{f"validation_{k}": v for k, v in asdict(scores).items()}})
            return True

    def stop(self) -> None:
        """Ask `run` to return after the update it is in; what it did of its epoch is done again."""
        self._stop.set()

    def best(self) -> LanguageModel:
        """Load the weights of the epoch with the best accuracy on the validation texts, the first of equals."""
        best = self._best()
        if best is None:
            raise TrainingError(f"{self.directory} has no epoch yet: run it first")
        self._restore(best)
        return self.objective.model

    @torch.no_grad()
    def validate(self) -> Scores:
        bits, predicted, right = 0.0, 0, torch.zeros(2)
        for chosen in self.valid.batches(self.options.rows):
            for hidden, cells, targets, ends in self._read(self.valid, chosen):
                count = int((targets.bytes != _IGNORED).sum())
                bits += float(self.objective.model.bits(hidden, targets.bytes)) * count
                predicted += count
                right += torch.stack([((found == targets.classes) & ends).sum().cpu() for found in self._named(cells)])
        texts = len(self.valid.texts)
        return Scores(bits / predicted, float(right[0]) / texts, float(right[1]) / texts)

    def _read(self, task: Task, chosen: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor, Targets, Tensor]]:
        """Hidden and cell after every byte of a batch, what is to be predicted, and where texts end, by windows."""
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

    def _train_epoch(self, on_update: Callable[[int], None]) -> dict[str, float] | None:
        """The means of its losses; None if it was stopped."""
        generator = np.random.default_rng([self.options.seed, self.epoch])
        sums, batches = torch.zeros(self.objective.terms), self.train.batches(self.options.rows, generator)
        for chosen in batches:
            if self._stop.is_set():
                return None
            sums += self._update(chosen)
            on_update(self.progress.step)
        bits, label_bits, unit_bits = (sums / len(batches)).tolist()
        return {"bits_per_byte": bits, "label_bits": label_bits, "unit_label_bits": unit_bits}

    def _update(self, chosen: NDArray[np.int64]) -> Tensor:
        """Learn from a batch. Its losses: bits per byte, and bits a text of the label by all units and by the one."""
        options, means = self.options, torch.zeros(self.objective.terms)
        self.optimizer.zero_grad(set_to_none=False)
        predicted = sum(len(self.train.texts[index]) - 1 for index in chosen)
        for hidden, cells, targets, _ in self._read(self.train, chosen):
            share = int((targets.bytes != _IGNORED).sum()) / predicted
            bits = share * self.objective.model.bits(hidden, targets.bytes)
            labels = [len(cells) * self._label_bits(logits, targets) for logits in self.read_out(cells)]
            losses = torch.stack([bits, *labels])
            weights = losses.new_tensor([options.language_weight, 1.0, self.unit_weight])
            (losses @ weights).backward()  # type: ignore[no-untyped-call]
            means += losses.detach().cpu()
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
        """The first of the epochs with the best accuracy on the validation texts."""
        scores = {path: snapshot.read_progress(path)[0].validation_label_accuracy or 0.0 for path in self._epochs()}
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
        _, _, self.progress = snapshot.load(path, self.objective, [self.optimizer])
        self.epoch = self.progress.step // self._per_epoch

    def _note(self, record: dict[str, Any]) -> None:
        with (self.directory / "log.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")
        self._report(record)


def digest(*parts: Labelled) -> str:
    """SHA-256 of texts and labels, by which a fine-tuning knows its data again."""
    found = hashlib.sha256()
    for part in parts:
        found.update(json.dumps([part.texts, part.labels]).encode())
    return found.hexdigest()
