"""`Reader`: the features of texts, each read once by a checkpoint and then cached on disk.

A cached file holds at most CHUNK texts, so an interrupted reading continues where it stopped. Its path identifies it:
CACHE / sha256 of the checkpoint's manifest / dtype / sha256 of the prepared texts .npy. It holds (2, texts, units)
float32: the final cells and the means, because one reading gives the features of every pooling.
"""

import hashlib
import platform
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.folded import FoldedModel
from engine.reading import read_texts
from model.checkpoints import checkpoint, volumes
from model.heads.pooling import Pooling, pool
from model.heads.unit import Calibration
from texts.preparation import prepare

CHUNK = 2048  # texts of one file: 64 MiB with 4,096 units

Features = NDArray[np.float32]


class EvaluationError(Exception):
    """A checkpoint or a set cannot be evaluated as asked; the message says what to change."""


@dataclass(frozen=True)
class Progress:
    """Callbacks that report progress: begin(stage, total), then advance(count)."""

    begin: Callable[[str, int], None] = lambda _stage, _total: None
    advance: Callable[[int], None] = lambda _count: None


class Reader:
    """A checkpoint that reads texts, and the cache of the features that it has read."""

    def __init__(
        self,
        directory: Path,
        cache: Path,
        pooling: Pooling = "cell",
        dtype: torch.dtype | None = None,
        progress: Progress | None = None,
    ) -> None:
        """directory: a checkpoint or a volume. dtype of the products; None takes the fastest of the device.

        Raises model.checkpoints.checkpoint.CheckpointError.
        """
        directory = volumes.resolve(directory)
        loaded = checkpoint.read(directory)
        self.manifest = loaded.manifest
        self.manifest_sha256 = checkpoint.manifest_sha256(directory)
        self.model = FoldedModel(loaded.model, "cuda" if torch.cuda.is_available() else "cpu", dtype)
        self.progress = progress or Progress()
        self.pooling = pooling
        self.baselines = cache / "tf-idf"  # of baseline.py, which needs no checkpoint
        self.judged = cache / "showdown"  # of showdown.py
        self._cache = cache / self.manifest_sha256 / str(self.model.dtype).removeprefix("torch.")

    @property
    def calibration(self) -> Calibration:
        """Of the sentiment unit. Raises EvaluationError if the checkpoint has none."""
        if self.manifest.sentiment is None:
            raise EvaluationError(f"{self.name} has no sentiment unit: publish it with labelled texts (--eval)")
        return self.manifest.sentiment

    @property
    def name(self) -> str:
        return f"{self.manifest.name}/step-{self.manifest.step}"

    def described(self) -> dict[str, Any]:
        """The facts about the checkpoint that every report holds."""
        return {
            "checkpoint": self.name,
            "manifest_sha256": self.manifest_sha256,
            "units": self.model.units,
            "bytes_seen": self.manifest.bytes_seen,
            "bits_per_byte": self.manifest.bits_per_byte,
            "pooling": self.pooling,
            "machine": f"{platform.machine()}, {self.model.device.type}, torch {torch.__version__}, {self.model.dtype}",
        }

    def features(self, texts: Sequence[str], stage: str = "reading", pooling: Pooling | None = None) -> Features:
        """(texts, units) float32, in the order of `texts`. pooling: by default the reader's."""
        self.progress.begin(stage, len(texts))
        features = np.empty((len(texts), self.model.units), dtype=np.float32)
        for begin in range(0, len(texts), CHUNK):
            chunk = [prepare(text) for text in texts[begin : begin + CHUNK]]
            features[begin : begin + CHUNK] = pool(*self._chunk(chunk), pooling or self.pooling)
        return features

    def _chunk(self, texts: list[bytes]) -> tuple[Features, Features]:
        """Final cells and means."""
        digest = hashlib.sha256()
        for text in texts:
            digest.update(len(text).to_bytes(8, "little") + text)
        path = self._cache / f"{digest.hexdigest()}.npy"
        cached = _cached(path, (2, len(texts), self.model.units))
        if cached is not None:
            self.progress.advance(len(texts))
            return cached[0], cached[1]
        cells, means = read_texts(self.model, texts, on_progress=self.progress.advance)
        _write(path, np.stack([cells, means]))
        return cells, means


def _cached(path: Path, shape: tuple[int, ...]) -> Features | None:
    """The features in the file; None if it is missing or damaged: the texts are then read again."""
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = isinstance(features, np.ndarray) and features.shape == shape and features.dtype == np.float32
    return features if fits else None


def _write(path: Path, features: Features) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with temporary.open("wb") as file:
            np.save(file, features, allow_pickle=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
