"""The options of a training run (`Options`), and the file `options.json` that keeps such options (`StoredOptions`)."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch

from model.checkpoints.durable import replace_file
from model.checkpoints.manifest import MAX_STEEPNESS, MAX_UNITS
from model.checkpoints.untrusted import brief, parse_json, read_plain
from model.network.cells import CellName
from model.network.language_model import Architecture
from model.network.matrix import fast_dtype

OPTIONS = "options.json"
_MAX_OPTIONS_BYTES = 2**20


class TrainingError(Exception):
    """A run cannot start or continue; the message says what to change."""


@dataclass(frozen=True)
class StoredOptions:
    """Options that a directory keeps as `options.json`."""

    of: ClassVar[str]  # what the directory holds, for messages

    def write(self, directory: Path) -> None:
        replace_file(directory / OPTIONS, json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The options that `directory` was made with. Raises TrainingError."""
        path = directory / OPTIONS
        try:
            raw = parse_json(read_plain(path, _MAX_OPTIONS_BYTES))
            unknown = sorted(raw.keys() - {field.name for field in fields(cls)})
            if unknown:
                raise ValueError(f"{unknown[0]!r} is unknown to this version")
            return cls(**raw)
        except FileNotFoundError as error:
            raise TrainingError(f"{directory} holds no {cls.of}: it has no {OPTIONS}") from error
        except OSError as error:
            raise TrainingError(f"{path} cannot be read: {error.strerror}") from error
        except TrainingError as error:
            raise TrainingError(f"{path}: {error}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise TrainingError(f"{path} is not the options of a {cls.of}: {brief(error)}") from error


@dataclass(frozen=True)
class Options(StoredOptions):
    """Everything that determines a run. Defaults are the paper's where it names them (arXiv 1704.01444, section 3)."""

    of = "run"

    corpus: str
    cell: CellName = "mlstm"
    units: int = 4096
    embedding_size: int = 64
    steepness: float = 1.0  # gates are σ(steepness * a)
    embedding_std: float = 0.02
    start_from: str | None = None  # a checkpoint whose weights the run starts with
    skip_bytes: int = 0  # of the corpus, which those weights have read already
    lanes: int = 0  # over all processes; 0: the paper's 128, or more on a GPU (initial.py)
    window: int = 256  # bytes of every lane; gradients do not reach further back
    accumulate: int = 1  # successive windows of every lane an update; their gradients are averaged
    total_bytes: int = 1_000_000_000  # the learning rate reaches zero here
    total_seconds: float = 0.0  # of training, in the place of total_bytes; 0: by bytes
    optimizer: Literal["adam", "muon"] = "adam"  # muon: for the recurrent matrices, Adam for the rest
    label_weight: float = 0.0  # of the label bits of all units, beside the bits per byte (model/network/objective.py)
    unit_weight: float = 0.0  # of those of the sentiment unit alone
    label_unit: int | None = None  # that unit; by default the sentiment unit of `start_from`, else the first
    learning_rate: float = 5e-4  # of Adam
    muon_learning_rate: float = 0.02
    warmup_steps: int = 0
    clip_norm: float = 1.0  # replications of the paper needed it
    seed: int = 0
    dtype: str = "auto"  # of products: float32, bfloat16, or what the device multiplies fastest
    fuse: bool = True  # compile the element-wise functions, if there is a compiler
    triton: bool = True  # on a GPU, by our own kernels rather than torch.compile's
    graph: bool = True  # on a GPU, record a window as one CUDA graph
    threads: int = 0  # on a CPU; 0: as many as the products of a step keep busy
    segment: int | None = None  # steps whose activations are kept, the others computed again; None: all
    device: str = "auto"  # a GPU if there is one
    snapshot_every_s: float = 300.0
    validate_every_bytes: int = 0  # 0: 200 times in the run, but after 2 MB at the earliest
    validation_bytes: int = 262_144
    keep: int = 2  # newest snapshots; the best is kept as well
    publish_to: str | None = None  # volume of checkpoints
    publish_every_steps: int = 0  # 0: at the end alone
    publish_eval: str | None = None  # directory of labelled texts, to find the sentiment unit with
    corpus_sha256: str = ""  # of the corpus' manifest, filled in when the run is made
    start_bytes: int = 0  # that those weights had read before, filled in when the run is made

    def __post_init__(self) -> None:
        least = dict.fromkeys(("units", "embedding_size", "window", "accumulate", "total_bytes", "keep"), 1)
        least |= dict.fromkeys(("lanes", "skip_bytes", "warmup_steps", "threads", "total_seconds"), 0)
        least |= dict.fromkeys(("validate_every_bytes", "validation_bytes", "publish_every_steps"), 0)
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise TrainingError(f"{_flag(name)} is {getattr(self, name)}, it must be at least {limit}")
        for name, value in asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):  # JSON has no such number
                raise TrainingError(f"{_flag(name)} is {value}, it must be a finite number")
        # Larger models could not be published.
        for name, most in (("units", MAX_UNITS), ("embedding_size", MAX_UNITS), ("steepness", MAX_STEEPNESS)):
            if getattr(self, name) > most:
                raise TrainingError(f"{_flag(name)} is {getattr(self, name)}, it must be at most {most:g}")
        if self.segment is not None and self.segment < 1:
            raise TrainingError(f"--segment is {self.segment}, it must be at least 1")
        for name in ("learning_rate", "muon_learning_rate", "clip_norm", "steepness"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{_flag(name)} is {getattr(self, name)}, it must be more than 0")
        for name in ("label_weight", "unit_weight"):
            if not getattr(self, name) >= 0:
                raise TrainingError(f"{_flag(name)} is {getattr(self, name)}, it must be at least 0")
        if self.label_unit is not None and not self.learns_labels:
            raise TrainingError("--label-unit needs --label-weight or --unit-weight: without them no label is learnt")
        if self.label_unit is not None and not 0 <= self.label_unit < self.units:
            raise TrainingError(f"--label-unit is {self.label_unit}, the model has units 0 to {self.units - 1}")
        if self.publish_to is None and (self.publish_every_steps or self.publish_eval):
            raise TrainingError("nothing is published without --publish-to: name a volume there")

    @property
    def architecture(self) -> Architecture:
        return Architecture(self.cell, self.units, self.embedding_size, self.steepness)

    @property
    def learns_labels(self) -> bool:
        return self.label_weight > 0 or self.unit_weight > 0

    @property
    def update_bytes(self) -> int:
        """Bytes that one update sees."""
        return self.lanes * self.window * self.accumulate

    def with_changes(self, given: Mapping[str, Any]) -> "Options":
        """What a run continues with when `given` is asked for. Raises TrainingError if that would be another run."""
        for name, value in given.items():
            if name not in _CHANGEABLE and value != getattr(self, name):
                raise TrainingError(
                    f"{_flag(name)} is {value} but the run was made with {getattr(self, name)}: leave it out to go "
                    "on, or make another run in a new directory"
                )
        if "total_bytes" in given and "total_seconds" not in given:
            return replace(self, **given, total_seconds=0.0)
        return replace(self, **given)


# Where and how long a run continues, and what it does besides training. The rest decides what it computes.
_CHANGEABLE = {
    *("corpus", "total_bytes", "total_seconds", "dtype", "fuse", "triton", "graph", "threads", "segment", "device"),
    *("snapshot_every_s", "keep"),
    *("validate_every_bytes", "validation_bytes", "publish_to", "publish_every_steps", "publish_eval"),
}


def _flag(name: str) -> str:
    return "--" + name.removeprefix("start_").replace("_", "-")


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """Of products. name: float32, bfloat16, or auto, which is what the device multiplies fastest."""
    return fast_dtype(device) if name == "auto" else getattr(torch, name)
