"""A corpus of training shards as it lies on disk: `Corpus` reads it. build.py makes it; reading needs no DuckDB.

A corpus is a directory of `shard-00000.bin` ... and `manifest.json`. A shard is plain bytes: every review prepared
as in texts/preparation.py without the space at its end, so that the newline before a review separates it
from the review before. The last two shards are held out: one for validation, one for test (Radford et al. 2017, section
3). Reviews may have labels, in a file beside each shard: labels.py.
"""

import errno
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from model.checkpoints.untrusted import brief, open_plain, parse_json, read_plain
from trainer.corpus.labels import LABELS, Labels, LabelsError, Reviews

MANIFEST = "manifest.json"
FEWEST_SHARDS = 3  # one to train on, one to validate, one to test
_HASHED_AT_ONCE_BYTES = 4 << 20
_MAX_MANIFEST_BYTES = 64 << 20  # 300,000 shards and sources

_Count = Annotated[int, Field(strict=True, ge=0, lt=10**15)]
_Text = Annotated[str, Field(strict=True)]


class CorpusError(Exception):
    """A corpus or its sources cannot be used; the message says which file and why."""


@dataclass(frozen=True)
class ShardEntry:
    file: Annotated[_Text, Field(pattern=r"^shard-[0-9]{5,9}\.bin$")]
    reviews: _Count
    bytes: Annotated[_Count, Field(ge=1)]
    sha256: Annotated[_Text, Field(pattern="^[0-9a-f]{64}$")]
    labels_sha256: Annotated[_Text, Field(pattern="^[0-9a-f]{64}$")] | None = None


@dataclass(frozen=True)
class SourceEntry:
    """What a file of reviews gave. reviews: copies included, empty and malformed ones not."""

    file: _Text
    bytes: _Count
    reviews: _Count
    empty: _Count
    malformed: _Count


@dataclass(frozen=True)
class CorpusManifest:
    """reviews: different ones, the sum over the shards. empty: records without text."""

    seed: Annotated[int, Field(strict=True)]
    reviews: _Count
    duplicates: _Count
    empty: _Count
    malformed: _Count
    shards: list[ShardEntry]
    sources: list[SourceEntry]
    labels: Labels | None = None


class Corpus:
    """A built corpus; shards are memory-mapped when asked for. Raises CorpusError for a missing or damaged one."""

    def __init__(self, directory: Path) -> None:
        path = directory / MANIFEST
        try:
            content = read_plain(path, _MAX_MANIFEST_BYTES)
            manifest = TypeAdapter(CorpusManifest).validate_python(parse_json(content))
        except FileNotFoundError as error:
            raise CorpusError(
                f"{directory} is not a corpus: it has no {MANIFEST} (build one: neuron corpus build)"
            ) from error
        except OSError as error:
            raise CorpusError(f"{path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise CorpusError(f"{path} is damaged: {where}: {first['msg']}; build the corpus again") from error
        except ValueError as error:
            raise CorpusError(f"{path} is damaged: {brief(error)}; build the corpus again") from error
        shards = manifest.shards
        if len(shards) < FEWEST_SHARDS:
            raise CorpusError(f"{path} is damaged: it lists {len(shards)} shards, fewer than {FEWEST_SHARDS}")
        if len({entry.file for entry in shards}) != len(shards):
            raise CorpusError(f"{path} is damaged: it lists a shard twice")
        labels = manifest.labels
        if any((entry.labels_sha256 is None) != (labels is None) for entry in shards):
            raise CorpusError(f"{path} is damaged: some shards have labels and some have none")
        if labels is not None and len(labels.counts) != len(manifest.sources):
            raise CorpusError(f"{path} is damaged: labels are counted for {len(labels.counts)} sources")
        self.directory = directory
        self.manifest = manifest
        self.sha256 = hashlib.sha256(content).hexdigest()  # of the manifest, which holds those of all shards
        self.mean_bytes = sum(entry.bytes for entry in shards) / max(1, manifest.reviews)  # of a review
        self.training = shards[:-2]
        self.validation, self.test = shards[-2], shards[-1]

    @property
    def labels(self) -> Labels:
        """What the reviews are labelled with. Raises CorpusError if there are no labels."""
        if self.manifest.labels is None:
            raise CorpusError(f"{self.directory} has no labels: build it with --label-field or --labels")
        return self.manifest.labels

    def read(self, entry: ShardEntry) -> NDArray[np.uint8]:
        """The bytes of one shard, memory-mapped, (bytes,)."""
        return self._mapped(entry.file, entry.bytes)

    def read_reviews(self, entry: ShardEntry) -> Reviews | None:
        """Where the reviews of one shard lie, and their labels; None for a corpus without labels."""
        labels = self.manifest.labels
        if labels is None:
            return None
        try:
            return Reviews(self.read(entry), self.read_labels(entry), labels, self.mean_bytes)
        except LabelsError as error:
            raise CorpusError(f"{self.directory / entry.file} is damaged: {error}; build the corpus again") from error

    def read_labels(self, entry: ShardEntry) -> NDArray[np.void]:
        """Label and source of each review of one shard, (reviews,) of LABELS. Raises CorpusError if there are none."""
        labels = self.labels
        found = self._mapped(labels_file(entry.file), entry.reviews * LABELS.itemsize).view(LABELS)
        if (found["label"] > len(labels.values)).any() or (found["source"] >= len(labels.counts)).any():
            raise CorpusError(f"{self.directory / labels_file(entry.file)} is damaged: build the corpus again")
        return found

    def _mapped(self, name: str, expected_bytes: int) -> NDArray[np.uint8]:
        path = self.directory / name
        try:
            with open_plain(path) as file:
                size = file.seek(0, 2)
                if size == expected_bytes:
                    return np.memmap(file, dtype=np.uint8, mode="r")
        except OSError as error:
            advice = {
                errno.ENOENT: "; build the corpus again",
                errno.EMFILE: "; every lane opens one: raise ulimit -n",
            }
            raise CorpusError(f"{path} cannot be read: {error.strerror}{advice.get(error.errno or 0, '')}") from error
        raise CorpusError(f"{path} holds {size} bytes, its manifest says {expected_bytes}: build the corpus again")

    def verify(self, on_bytes: Callable[[int], None] = lambda _: None) -> None:
        """Compare every shard with its SHA-256. on_bytes: gets the bytes hashed since its last call."""
        for entry in self.manifest.shards:
            self._verify(entry.file, entry.bytes, entry.sha256, on_bytes)
            if entry.labels_sha256 is not None:
                size = entry.reviews * LABELS.itemsize
                self._verify(labels_file(entry.file), size, entry.labels_sha256, lambda _: None)

    def _verify(self, name: str, size: int, sha256: str, on_bytes: Callable[[int], None]) -> None:
        data, digest = self._mapped(name, size), hashlib.sha256()
        for start in range(0, len(data), _HASHED_AT_ONCE_BYTES):
            part = data[start : start + _HASHED_AT_ONCE_BYTES]
            digest.update(part.data)
            on_bytes(len(part))
        if digest.hexdigest() != sha256:
            raise CorpusError(
                f"{self.directory / name} is damaged: its SHA-256 is not that of its manifest; build the corpus again"
            )


def labels_file(shard: str) -> str:
    """The file of the labels of the shard `shard`."""
    return shard.removesuffix(".bin") + ".labels"
