"""The records of one file as Arrow batches: `batches`.

Every batch has the columns `line` (from 1; for Parquet the row), `record` and `fault`, of which one is null, and
`label`, null where there is none. A record is the raw review; for JSON lines it is the whole line, parsed later
(cleaning.py), and its label with it.

CSV is split by Python's csv module: DuckDB 2.0.0 reads other rows with several threads than with one where quoted
fields hold newlines, and names records instead of lines.
"""

import contextlib
import csv
import io
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.texts.packed import UNREADABLE, open_packed
from trainer.corpus.corpus import CorpusError
from trainer.corpus.sources import MAX_RECORD_BYTES, Source, csv_reader, seekable

SCHEMA = pa.schema([("line", pa.int64()), ("record", pa.string()), ("fault", pa.string()), ("label", pa.string())])

_BLOCK_BYTES = 4 << 20
_BLOCK_ROWS = 8192


def batches(source: Source, spill: Path, on_bytes: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    """The records of a file in its order, some megabytes at a time.

    spill: a directory for what must be unpacked first. on_bytes: gets the bytes of the file read since its last
    call. Raises CorpusError if the file cannot be read.
    """
    read, size = 0, source.path.stat().st_size
    try:
        with contextlib.ExitStack() as stack:
            if source.kind == "parquet":
                parquet = pq.ParquetFile(seekable(source.path, spill, stack))
                found = _parquet_batches(source, parquet)
            else:
                raw = stack.enter_context(source.path.open("rb"))
                stream = stack.enter_context(open_packed(source.path, raw))
                found = _csv_batches(source, stream) if source.kind == "csv" else _line_batches(source, stream)
            if source.labels is not None:
                beside = io.TextIOWrapper(open_packed(source.labels), encoding="utf-8-sig", newline="\n")
                found = _with_labels(source, found, stack.enter_context(beside))
            for batch in found:
                yield batch
                if source.kind == "parquet":
                    position = size * batch["line"][-1].as_py() // parquet.metadata.num_rows
                else:
                    position = raw.tell()
                on_bytes(position - read)
                read = position
        on_bytes(size - read)
    except (*UNREADABLE, pa.ArrowException) as error:
        raise CorpusError(f"{source.path} cannot be read: {error}") from error


def _with_labels(source: Source, found: Iterator[pa.RecordBatch], beside: TextIO) -> Iterator[pa.RecordBatch]:
    """The batches of a file of text with the labels of the file beside it, line by line."""
    read = 0
    try:
        for batch in found:
            labels = [line.rstrip("\r\n") for line in islice(beside, len(batch))]
            read += len(labels)
            if len(labels) < len(batch):
                raise CorpusError(f"{source.labels} ends after {read} lines, {source.path} continues")
            yield batch.set_column(3, SCHEMA.field("label"), pa.array(labels, pa.string()))
        if more := sum(1 for _ in beside):
            raise CorpusError(f"{source.labels} has {read + more} lines, {source.path} {read}")
    except (*UNREADABLE, UnicodeDecodeError) as error:
        raise CorpusError(f"{source.labels} cannot be read: {error}") from error


def _batch(lines: Any, records: Any, faults: Any = None, labels: Any = None) -> pa.RecordBatch:
    columns = [pa.array(lines, pa.int64()), pa.array(records, pa.string())]
    for part in (faults, labels):
        columns.append(pa.nulls(len(records), pa.string()) if part is None else pa.array(part, pa.string()))
    return pa.record_batch(columns, schema=SCHEMA)


def _decoded(first_line: int, records: pa.Array, labels: pa.Array = None) -> pa.RecordBatch:
    """records: bytes or strings not yet checked to be UTF-8."""
    lines = np.arange(first_line, first_line + len(records))
    if not records.null_count:
        with contextlib.suppress(pa.ArrowInvalid):
            return _batch(lines, records.cast(pa.string()), labels=labels)
    texts: list[str | None] = []
    faults: list[str | None] = []
    for record in records:
        value, fault = record.as_py(), None
        if value is None:
            fault = "the text is null"
        else:
            try:
                value = value.decode()
            except UnicodeDecodeError as error:
                value, fault = None, f"not UTF-8 ({error.reason} at byte {error.start})"
        texts.append(value)
        faults.append(fault)
    return _batch(lines, texts, faults, labels)


def _line_batches(source: Source, stream: BinaryIO) -> Iterator[pa.RecordBatch]:
    rest, line = b"", 1
    while True:
        chunk = stream.read(_BLOCK_BYTES)
        block = rest + chunk if chunk or not rest else rest + b"\n"
        if line == 1:
            block = block.removeprefix(b"\xef\xbb\xbf")  # a byte order mark, as some editors write
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
        if len(ends):
            text = block[: ends[-1]].replace(b"\n", b"")
            offsets = np.zeros(len(ends) + 1, np.int32)
            offsets[1:] = ends - np.arange(len(ends))
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
            yield _decoded(line, pa.Array.from_buffers(pa.binary(), len(ends), buffers))
            line += len(ends)
            block = block[ends[-1] + 1 :]
        rest = block
        if len(rest) > MAX_RECORD_BYTES:
            raise CorpusError(f"{source.path}, line {line}: it is longer than {MAX_RECORD_BYTES:,} bytes")
        if not chunk and not rest:
            return


def _csv_batches(source: Source, stream: BinaryIO) -> Iterator[pa.RecordBatch]:
    lines: list[int] = []
    texts: list[str | None] = []
    faults: list[str | None] = []
    labels: list[str | None] = []
    size = 0
    with csv_reader(source.path, stream) as reader:
        for line, text, fault, label in _csv_records(reader, source):
            lines.append(line)
            texts.append(text)
            faults.append(fault)
            labels.append(label)
            size += 0 if text is None else len(text)
            if len(lines) == _BLOCK_ROWS or size > _BLOCK_BYTES:
                yield _batch(lines, texts, faults, labels)
                lines, texts, faults, labels, size = [], [], [], [], 0
        if lines:
            yield _batch(lines, texts, faults, labels)


def _csv_records(reader: Any, source: Source) -> Iterator[tuple[int, str | None, str | None, str | None]]:
    """Line, text, fault and label of every row; text and fault are not both there."""
    header = next(reader)
    column = header.index(source.field)
    label_column = None if source.label_field is None else header.index(source.label_field)
    while True:
        line, text, fault, label = reader.line_num + 1, None, None, None
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = f"not CSV ({error})"
        else:
            if not row:
                text = ""  # a blank line
            elif len(row) != len(header):
                fault = f"it has {len(row)} columns, the header has {len(header)}"
            elif not (_is_utf8(row[column]) and (label_column is None or _is_utf8(row[label_column]))):
                fault = "not UTF-8"
            else:
                text = row[column]
                label = None if label_column is None else row[label_column]
        yield line, text, fault, label


def _is_utf8(text: str) -> bool:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def _parquet_batches(source: Source, parquet: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    row = 1
    names = [name for name in (source.field, source.label_field) if name is not None]
    for batch in parquet.iter_batches(_BLOCK_ROWS, columns=names):
        column = batch.column(source.field)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        labels = None if source.label_field is None else batch.column(source.label_field).cast(pa.string())
        yield _decoded(row, column.cast(pa.binary()), labels)
        row += len(column)
