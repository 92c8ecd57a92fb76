"""Reviews of any number into shards, out of core: hashed into buckets on disk, which are sorted one by one.

A review's place is a 128-bit hash of it, so a bucket, which is a range of places, holds all copies of its reviews; a
sorted bucket without its copies is a piece of the shuffled corpus, and the buckets follow each other. Every byte is
written twice and read once in between, whatever the size of the corpus and the memory.

A bucket is two files: `reviews`, the bytes as in a shard (every review begins with its only newline), and `places`,
(reviews, 2) numbers of 64 bits, the high ones first.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainer.corpus import ShardEntry

# Reviews are held back until so many bytes of them share the opening of the buckets' files.
_PENDING_BYTES = 32 << 20
_MAX_BUCKETS = 4096

Result = TypeVar("Result")


class Buckets:
    """Buckets of about `bucket_bytes` each in a new directory, for about `expected_bytes` of reviews."""

    def __init__(self, directory: Path, expected_bytes: int, bucket_bytes: int) -> None:
        directory.mkdir()
        self._directory = directory
        wanted = min(_MAX_BUCKETS, max(1, -(-expected_bytes // bucket_bytes)))
        self._bits = (wanted - 1).bit_length()
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self.reviews = 0
        self.bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """batch: columns `high`, `low` and `review`."""
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
        offsets, data = _strings(table["review"].take(pa.array(order)).combine_chunks())
        self.bytes += int(offsets[-1])
        bounds = np.searchsorted(bucket[order], np.arange(2**self._bits + 1))
        for number, (first, last) in enumerate(pairwise(bounds)):
            if first < last:
                reviews, where = self._files(number)
                _append(reviews, data[offsets[first] : offsets[last]])
                _append(where, places[first:last].data.cast("B"))

    def count(self, workers: int) -> int:
        """How many different reviews there are."""
        return sum(_ahead(2**self._bits, lambda number: len(_first_of_each(self._places(number))), workers))

    def sorted(self, workers: int) -> Iterator[tuple[NDArray[np.int64], memoryview]]:
        """Every bucket's different reviews by place: their offsets, (reviews + 1,), and bytes. Removes the buckets."""
        return _ahead(2**self._bits, self._sort, workers)

    def _sort(self, number: int) -> tuple[NDArray[np.int64], memoryview]:
        chosen = _first_of_each(self._places(number))
        reviews, places = self._files(number)
        data = np.fromfile(reviews, np.uint8) if reviews.exists() else np.empty(0, np.uint8)
        reviews.unlink(missing_ok=True)
        places.unlink(missing_ok=True)
        starts = np.flatnonzero(data == ord("\n"))
        offsets = np.append(starts, len(data))
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        return _strings(pa.Array.from_buffers(pa.large_binary(), len(starts), buffers).take(pa.array(chosen)))

    def _places(self, number: int) -> NDArray[np.uint64]:
        path = self._files(number)[1]
        return np.fromfile(path, np.uint64).reshape(-1, 2) if path.exists() else np.empty((0, 2), np.uint64)

    def _files(self, number: int) -> tuple[Path, Path]:
        return self._directory / f"{number:04d}.reviews", self._directory / f"{number:04d}.places"


def write_shards(
    pieces: Iterator[tuple[NDArray[np.int64], memoryview]],
    reviews: int,
    directory: Path,
    shards: int,
    on_bytes: Callable[[int], None],
) -> list[ShardEntry]:
    """Cut the shuffled corpus into shards whose counts of reviews differ by one at most.

    pieces: as from `Buckets.sorted`, `reviews` in all. on_bytes: told how many bytes have been written since it was
    last called.
    """
    counts = [reviews * (number + 1) // shards - reviews * number // shards for number in range(shards)]
    offsets, data = np.zeros(1, np.int64), memoryview(b"")
    used = 0
    entries = []
    for number, count in enumerate(counts):
        name = f"shard-{number:05d}.bin"
        digest, size, missing = hashlib.sha256(), 0, count
        with (directory / name).open("wb", buffering=0) as file:
            while missing:
                if used == len(offsets) - 1:
                    (offsets, data), used = next(pieces), 0
                taken = min(missing, len(offsets) - 1 - used)
                part = data[offsets[used] : offsets[used + taken]]
                _write(file.write, part)
                digest.update(part)
                on_bytes(len(part))
                size += len(part)
                used += taken
                missing -= taken
        entries.append(ShardEntry(name, count, size, digest.hexdigest()))
    return entries


def _first_of_each(places: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Indices of one review per different place, in the order of the places. places: (reviews, 2)."""
    order = np.lexsort((places[:, 1], places[:, 0]))
    placed = places[order]
    first = np.ones(len(order), bool)
    first[1:] = (placed[1:] != placed[:-1]).any(axis=1)
    return order[first]


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
    """`work` of 0 ... count - 1, in order; at most `workers` results wait to be taken."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Result]] = deque()
        for number in range(count):
            waiting.append(pool.submit(work, number))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
