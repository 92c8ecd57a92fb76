"""Raw review files to training shards: `build_corpus`, and `Corpus`, which reads a built one.

A corpus is a directory of `shard-00000.bin` ... and `manifest.json`. A shard is plain bytes: every review prepared
as in model/text.py without the space at its end, so that the newline which begins a review separates it from the
one before. The last two shards are held out: one for validation, one for test (Radford et al. 2017, section 3).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.text import clean
from trainer.packed import UNREADABLE, open_packed

MANIFEST = "manifest.json"


class CorpusError(Exception):
    """A corpus or its sources cannot be used; the message says which file and why."""


@dataclass(frozen=True)
class ShardEntry:
    file: str
    reviews: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class CorpusManifest:
    seed: int
    reviews: int
    duplicates: int
    shards: list[ShardEntry]
    sources: list[str]


def read_reviews(source: Path) -> Iterator[str]:
    """The lines of a text file, plain or packed by gzip or xz; one line is one review."""
    try:
        with open_packed(source) as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    text = clean(line.decode("utf-8"))
                except UnicodeDecodeError as error:
                    raise CorpusError(
                        f"{source}, line {number}: not UTF-8 ({error.reason} at byte {error.start})"
                    ) from error
                if text:
                    yield text
    except UNREADABLE as error:
        raise CorpusError(f"{source} cannot be read: {error}") from error


def build_corpus(sources: Iterable[Path], out: Path, shards: int, seed: int = 0) -> CorpusManifest:
    """De-duplicate the reviews, shuffle them by a hash and write `shards` shards of equal review count into `out`.

    The same sources and seed give the same bytes. Holds all reviews in memory.
    """
    if shards < 3:
        raise CorpusError(f"shards is {shards}: at least 3 are needed (one to train on, one to validate, one to test)")
    if out.exists() and any(out.iterdir()):
        raise CorpusError(f"{out} is not empty: name a new directory")
    sources = list(sources)
    order: dict[bytes, bytes] = {}
    duplicates = 0
    key = seed.to_bytes(8, "little")
    for source in sources:
        for review in read_reviews(source):
            encoded = review.encode("utf-8")
            place = hashlib.blake2b(encoded, digest_size=16, key=key).digest()
            duplicates += place in order
            order[place] = encoded
    if len(order) < shards:
        raise CorpusError(f"{len(order)} different reviews do not fill {shards} shards: lower --shards")

    out.mkdir(parents=True, exist_ok=True)
    places = sorted(order)
    bounds = [len(places) * i // shards for i in range(shards + 1)]
    entries = []
    for number in range(shards):
        chosen = places[bounds[number] : bounds[number + 1]]
        data = b"".join(b"\n " + order[place] for place in chosen)
        name = f"shard-{number:05d}.bin"
        (out / name).write_bytes(data)
        entries.append(ShardEntry(name, len(chosen), len(data), hashlib.sha256(data).hexdigest()))
    manifest = CorpusManifest(seed, len(order), duplicates, entries, sorted(source.name for source in sources))
    # Written last: a directory without a manifest is an unfinished corpus.
    temporary = out / (MANIFEST + ".partial")
    temporary.write_text(json.dumps(asdict(manifest), indent=1))
    temporary.replace(out / MANIFEST)
    return manifest


class Corpus:
    """A built corpus; shards are memory-mapped when asked for."""

    def __init__(self, directory: Path) -> None:
        try:
            raw = json.loads((directory / MANIFEST).read_text())
        except FileNotFoundError as error:
            raise CorpusError(
                f"{directory} is no corpus: it has no {MANIFEST} (build one: neuron corpus build)"
            ) from error
        shards = [ShardEntry(**entry) for entry in raw.pop("shards")]
        self.directory = directory
        self.manifest = CorpusManifest(shards=shards, **raw)
        self.training = shards[:-2]
        self.validation, self.test = shards[-2], shards[-1]

    def read(self, entry: ShardEntry) -> NDArray[np.uint8]:
        """The bytes of one shard, memory-mapped, (bytes,)."""
        path = self.directory / entry.file
        size = path.stat().st_size if path.exists() else 0
        if size != entry.bytes:
            raise CorpusError(f"{path} holds {size} bytes, its manifest says {entry.bytes}: build the corpus again")
        return np.memmap(path, dtype=np.uint8, mode="r")
