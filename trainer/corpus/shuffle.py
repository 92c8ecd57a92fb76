"""Reviews of any number into shards, out of core: hashed into buckets on disk, which are sorted one by one.

A review's place is a 128-bit hash of it, so a bucket, which is a range of places, holds all copies of its reviews; a
sorted bucket without its copies is a piece of the shuffled corpus, and the buckets follow each other. Every byte is
written twice and read once in between, whatever the size of the corpus and the memory.

A bucket is two files: `reviews`, the bytes as in a shard (every review starts with its only newline), and `places`,
(reviews, 2) numbers of 64 bits, the high ones first. With labels a third: `marks`, of 64 bits, the index of the source
times 256 plus the code of the label.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainer.corpus.corpus import ShardEntry, labels_file
from trainer.corpus.labels import LABELS

_PENDING_BYTES = 32 << 20  # reviews that are collected before the buckets' files are opened and appended to
_MAX_BUCKETS = 4096

Result = TypeVar("Result")


class Piece(NamedTuple):
    """Part of the shuffled corpus. offsets: (reviews + 1,) of each in `data`; marks: (reviews,), or None."""

    offsets: NDArray[np.int64]
    data: memoryview
    marks: NDArray[np.uint64] | None = None
    disagreeing: int = 0  # reviews whose copies were labelled differently


class Buckets:
    """Buckets of about `bucket_bytes` each in a new directory, for about `expected_bytes` of reviews."""

    def __init__(self, directory: Path, expected_bytes: int, bucket_bytes: int, marked: bool = False) -> None:
        directory.mkdir()
        self._directory = directory
        self._marked = marked
        wanted = min(_MAX_BUCKETS, max(1, -(-expected_bytes // bucket_bytes)))
        self._bits = (wanted - 1).bit_length()
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self.reviews = 0
        self.bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """batch: columns `high`, `low` and `review`, and `mark` if the buckets are marked."""
        self._pending.append(batch)
        self._pending_bytes += batch.nbytes
        self.reviews += len(batch)
        if self._pending_bytes > _PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        if not self._pending:
            return
        table = pa.Table.from_batches(self._pending)
        self._pending, self._pending_bytes = [], 0
        places = np.stack([table["high"].to_numpy(), table["low"].to_numpy()], axis=1)  # (reviews, 2)
        bucket = _top_bits(places[:, 0], self._bits)
        order = np.argsort(bucket, kind="stable")
        places = places[order]
        marks = table["mark"].to_numpy()[order] if self._marked else None
        offsets, data = _strings(table["review"].take(pa.array(order)).combine_chunks())
        self.bytes += int(offsets[-1])
        bounds = np.searchsorted(bucket[order], np.arange(2**self._bits + 1))
        for number, (first, last) in enumerate(pairwise(bounds)):
            if first < last:
                reviews, where, marked = self._files(number)
                _append(reviews, data[offsets[first] : offsets[last]])
                _append(where, places[first:last].data.cast("B"))
                if marks is not None:
                    _append(marked, marks[first:last].data.cast("B"))

    def count(self, workers: int) -> int:
        """How many different reviews there are."""
        return sum(_ahead(2**self._bits, lambda number: len(_groups(self._places(number))[1]), workers))

    def sorted(self, workers: int) -> Iterator[Piece]:
        """Every bucket's different reviews by place. Removes the buckets."""
        return _ahead(2**self._bits, self._sort, workers)

    def _sort(self, number: int) -> Piece:
        order, firsts = _groups(self._places(number))
        reviews, places, marked = self._files(number)
        data = np.fromfile(reviews, np.uint8) if reviews.exists() else np.empty(0, np.uint8)
        marks = np.fromfile(marked, np.uint64) if marked.exists() else np.empty(0, np.uint64)
        for path in (reviews, places, marked):
            path.unlink(missing_ok=True)
        starts = np.flatnonzero(data == ord("\n"))
        offsets = np.append(starts, len(data))
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        strings = pa.Array.from_buffers(pa.large_binary(), len(starts), buffers).take(pa.array(order[firsts]))
        if not self._marked:
            return Piece(*_strings(strings))
        return Piece(*_strings(strings), *_merged(marks[order], firsts))

    def _places(self, number: int) -> NDArray[np.uint64]:
        path = self._files(number)[1]
        return np.fromfile(path, np.uint64).reshape(-1, 2) if path.exists() else np.empty((0, 2), np.uint64)

    def _files(self, number: int) -> tuple[Path, Path, Path]:
        reviews, places, marks = (self._directory / f"{number:04d}.{kind}" for kind in ("reviews", "places", "marks"))
        return reviews, places, marks


class Shards:
    """Cuts the shuffled corpus into shards whose counts of reviews differ by one at most, except those held out."""

    def __init__(self, directory: Path, marks: "Marks | None" = None) -> None:
        self._directory = directory
        self._marks = marks
        self.disagreeing = 0  # reviews whose copies were labelled differently

    def write(
        self, pieces: Iterator[Piece], counts: Sequence[int], on_bytes: Callable[[int], None]
    ) -> list[ShardEntry]:
        """pieces: as from `Buckets.sorted`; counts: reviews of each shard, of all pieces together. on_bytes: gets the
        bytes written since its last call."""
        piece, used = Piece(np.zeros(1, np.int64), memoryview(b"")), 0
        entries = []
        for number, count in enumerate(counts):
            name = f"shard-{number:05d}.bin"
            digest, size, missing = hashlib.sha256(), 0, count
            found: list[NDArray[np.uint64]] = []
            with (self._directory / name).open("wb", buffering=0) as file:
                while missing:
                    if used == len(piece.offsets) - 1:
                        piece, used = next(pieces), 0
                        self.disagreeing += piece.disagreeing
                    taken = min(missing, len(piece.offsets) - 1 - used)
                    part = piece.data[piece.offsets[used] : piece.offsets[used + taken]]
                    _write(file.write, part)
                    digest.update(part)
                    on_bytes(len(part))
                    size += len(part)
                    if piece.marks is not None:
                        found.append(piece.marks[used : used + taken])
                    used += taken
                    missing -= taken
            labels = None if self._marks is None else self._write_labels(name, np.concatenate(found), self._marks)
            entries.append(ShardEntry(name, count, size, digest.hexdigest(), labels))
        return entries

    def _write_labels(self, name: str, found: NDArray[np.uint64], marks: "Marks") -> str:
        """The SHA-256 of what is written."""
        content = marks.labels(found).tobytes()
        (self._directory / labels_file(name)).write_bytes(content)
        return hashlib.sha256(content).hexdigest()


def shard_counts(reviews: int, shards: int, held_out: int | None = None) -> list[int]:
    """Reviews of each shard. held_out: of each of the last two; None for as many as the others have."""
    if held_out is not None:
        return [*shard_counts(reviews - 2 * held_out, shards - 2), held_out, held_out]
    return [reviews * (number + 1) // shards - reviews * number // shards for number in range(shards)]


class Marks:
    """From the marks of reviews, as they were read, to labels as the manifest orders them."""

    def __init__(self, sources: NDArray[np.int64], codes: NDArray[np.int64]) -> None:
        """sources: the final index of each source; codes: the final code of each code, the first 0."""
        self._sources, self._codes = sources, codes
        self.counts = np.zeros((len(sources), len(codes)), np.int64)  # reviews by source and label

    def labels(self, marks: NDArray[np.uint64]) -> NDArray[np.void]:
        """marks: (reviews,) -> LABELS, (reviews,)."""
        found = np.zeros(len(marks), LABELS)
        found["label"] = self._codes[(marks & np.uint64(255)).astype(np.int64)]
        found["source"] = self._sources[(marks >> np.uint64(8)).astype(np.int64)]
        np.add.at(self.counts, (found["source"], found["label"]), 1)
        return found


def _groups(places: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order of reviews by place, and where in it each different place starts. places: (reviews, 2)."""
    order = np.lexsort((places[:, 1], places[:, 0]))
    placed = places[order]
    first = np.ones(len(order), bool)
    first[1:] = (placed[1:] != placed[:-1]).any(axis=1)
    return order, np.flatnonzero(first)


def _merged(marks: NDArray[np.uint64], firsts: NDArray[np.int64]) -> tuple[NDArray[np.uint64], int]:
    """One mark for the copies of a review, whatever their order: the first source, and the label if they agree.

    marks: (reviews,), copies side by side; firsts: where the copies of each start. Also returns how many do not agree.
    """
    if not len(marks):
        return marks, 0
    codes, most = marks & np.uint64(255), np.uint64(256)
    low = np.minimum.reduceat(np.where(codes == 0, most, codes), firsts)  # copies without a label do not count
    high = np.maximum.reduceat(codes, firsts)
    agreed = np.where(low == high, high, np.uint64(0))
    sources = np.minimum.reduceat(marks >> np.uint64(8), firsts)
    return (sources << np.uint64(8)) | agreed, int(((low != high) & (high > 0)).sum())


def _top_bits(high: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    # A shift by all 64 bits is not defined.
    return high >> np.uint64(64 - bits) if bits else np.zeros_like(high)


def _strings(array: pa.Array) -> tuple[NDArray[np.int64], memoryview]:
    """Offsets, (strings + 1,), and bytes of an Arrow array of strings or bytes without nulls; copies no text."""
    wide = pa.types.is_large_binary(array.type) or pa.types.is_large_string(array.type)
    _, offsets, data = array.buffers()
    found = np.frombuffer(offsets, np.int64 if wide else np.int32)[array.offset : array.offset + len(array) + 1]
    return found.astype(np.int64, copy=False), memoryview(data if data is not None else b"")


def _append(path: Path, data: memoryview) -> None:
    with path.open("ab", buffering=0) as file:
        _write(file.write, data)


def _write(write: Callable[[memoryview], int | None], data: memoryview) -> None:
    # One write() may take less than all: 2 GiB is the most on Linux.
    while len(data):
        data = data[write(data) or 0 :]


def _ahead(count: int, work: Callable[[int], Result], workers: int) -> Iterator[Result]:
    """`work` of 0 ... count - 1, in order; at most `workers` results wait."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Result]] = deque()
        for number in range(count):
            waiting.append(pool.submit(work, number))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
