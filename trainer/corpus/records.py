"""The records of one file as Arrow batches: `batches`.

Every batch has the columns `line` (from 1; for Parquet and Arrow the row), `text` and `fault`, of which one is null,
and `label`, null where there is none.
"""

import contextlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from texts.dialect import Dialect
from texts.faults import TextsError
from texts.reader import read_file
from texts.records import CHUNK_CHARACTERS, CHUNK_RECORDS, Chunk, Field
from trainer.corpus.corpus import CorpusError
from trainer.corpus.sources import Source

SCHEMA = pa.schema([("line", pa.int64()), ("text", pa.string()), ("fault", pa.string()), ("label", pa.string())])


def batches(source: Source, spill: Path, on_bytes: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    """The records of a file in its order, some megabytes at a time.

    spill: a directory for what must be unpacked first. on_bytes: gets the bytes of the file read since its last
    call. Raises CorpusError if the file cannot be read.
    """
    read, size = 0, source.path.stat().st_size
    fields = [source.text]
    if source.label_field is not None:
        fields.append(Field(source.label_field, "label"))
    try:
        with contextlib.ExitStack() as stack:
            records = stack.enter_context(read_file(source.path, source.dialect, spill))
            beside = None if source.labels is None else stack.enter_context(_labels(source))
            for chunks in _together(records.chunks(fields)):
                batch = pa.concat_batches([_batch(chunk, beside) for chunk in chunks])
                yield batch
                on_bytes(records.position() - read)
                read = records.position()
            if beside is not None:
                beside.finish()
        on_bytes(size - read)
    except TextsError as error:
        raise CorpusError(str(error)) from error


def _together(chunks: Iterator[Chunk]) -> Iterator[list[Chunk]]:
    """Some thousands of records, or some megabytes, at once: DuckDB's threads wait for Python at every batch."""
    found: list[Chunk] = []
    records = characters = 0
    for chunk in chunks:
        found.append(chunk)
        records += len(chunk)
        characters += sum(map(len, filter(None, chunk.columns[0])))
        if records >= CHUNK_RECORDS or characters >= CHUNK_CHARACTERS:
            yield found
            found, records, characters = [], 0, 0
    if found:
        yield found


def _batch(chunk: Chunk, beside: "_Labels | None") -> pa.RecordBatch:
    texts, *more = chunk.columns
    labels = more[0] if more else None if beside is None else beside.take(len(chunk))
    nothing = pa.nulls(len(chunk), pa.string())
    columns = [
        pa.array(np.fromiter(chunk.places, np.int64, len(chunk))),
        pa.array(texts, pa.string()),
        pa.array(chunk.faults, pa.string()) if any(chunk.faults) else nothing,
        nothing if labels is None else pa.array(labels, pa.string()),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


class _Labels:
    """The labels beside a file of text, a line for each of its lines."""

    def __init__(self, source: Source, lines: Iterator[str]) -> None:
        self._source = source
        self._lines = lines
        self._taken = 0

    def take(self, count: int) -> list[str | None]:
        """Of the next `count` lines. Raises CorpusError where they end."""
        found: list[str | None] = list(islice(self._lines, count))
        self._taken += len(found)
        if len(found) < count:
            raise CorpusError(f"{self._source.labels} ends after {self._taken} lines, {self._source.path} continues")
        return found

    def finish(self) -> None:
        """Raises CorpusError where there are more."""
        if more := sum(1 for _ in self._lines):
            raise CorpusError(
                f"{self._source.labels} has {self._taken + more} lines, {self._source.path} {self._taken}"
            )


@contextlib.contextmanager
def _labels(source: Source) -> Iterator[_Labels]:
    assert source.labels is not None  # noqa: S101 - as the caller has seen
    with read_file(source.labels, Dialect(format="text")) as records:
        yield _Labels(source, _lines(records.chunks([]), source.labels))


def _lines(chunks: Iterator[Any], path: Path) -> Iterator[str]:
    for chunk in chunks:
        for place, line, fault in zip(chunk.places, chunk.values, chunk.faults, strict=True):
            if fault is not None:
                raise CorpusError(f"{path}, line {place}: {fault}")
            yield line
