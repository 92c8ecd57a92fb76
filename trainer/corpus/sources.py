"""Files of reviews as Arrow batches of raw records: text, CSV, JSON lines and Parquet, each also packed.

Every batch has the columns `line` (from 1; for Parquet the row), `record` and `fault`, of which one is null, and
`label`, null where there is none. A record is the raw review; for JSON lines it is the whole line, parsed later
(trainer/corpus/cleaning.py), and its label with it.

CSV is split by Python's csv module: DuckDB 2.0.0 reads other rows with several threads than with one where quoted
fields hold newlines, and names records instead of lines.
"""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.texts.packed import PACKED, UNREADABLE, open_packed
from trainer.corpus.corpus import CorpusError

SCHEMA = pa.schema([("line", pa.int64()), ("record", pa.string()), ("fault", pa.string()), ("label", pa.string())])

_BLOCK_BYTES = 4 << 20
_BLOCK_ROWS = 8192
# A file without newlines is no file of reviews; it must not fill the memory.
MAX_RECORD_BYTES = 64 << 20
# Enough lines to see which fields the objects of a file have.
_LINES_LOOKED_AT = 100

Kind = Literal["text", "csv", "json", "parquet"]
_KINDS: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}


@dataclass(frozen=True)
class Source:
    """One file and how to read it. field, label_field: the columns or keys of text and label; None for plain text.

    labels: the file that holds the labels of plain text, one a line.
    """

    path: Path
    kind: Kind
    field: str | None = None
    label_field: str | None = None
    labels: Path | None = None


def find_files(names: list[Path]) -> list[Path]:
    """The files that `names` (paths or globs, `**` too) stand for: each once, sorted. Raises CorpusError."""
    found: dict[Path, Path] = {}
    for name in names:
        try:
            is_directory, exists = name.is_dir(), name.exists()
        except OSError as error:
            raise CorpusError(f"{name} cannot be looked at: {error.strerror}") from error
        if is_directory:
            raise CorpusError(f"{name} is a directory: name its files, as in '{name}/*'")
        if exists:
            files = [name]
        elif any(character in str(name) for character in "*?["):
            files = [path for path in Path(name.anchor).glob(str(name.relative_to(name.anchor))) if path.is_file()]
        else:
            files = []
        if not files:
            raise CorpusError(f"{name}: no such file")
        found |= {path.resolve(): path for path in files}
    return sorted(found.values(), key=str)


def open_source(
    path: Path, text_field: str | None, spill: Path, label_field: str | None = None, labels: Path | None = None
) -> Source:
    """Find out how to read a file, by its suffix; `.gz`, `.xz` and `.zst` may follow. Any unknown suffix is text.

    text_field may be None for text and where there is but one column of strings. spill: a directory for what must be
    unpacked first. labels: a directory with a file of the same name for each file of text that has labels. Raises
    CorpusError naming the columns if text or label is not among them, or the text not to be told.
    """
    inner = path.with_suffix("") if path.suffix.lower() in PACKED else path
    kind = _KINDS.get(inner.suffix.lower(), "text")
    if kind == "text":
        beside = None if labels is None else labels / path.name
        return Source(path, kind, labels=beside if beside is not None and beside.exists() else None)
    try:
        if kind == "parquet":
            fields, others = _parquet_columns(path, spill)
        else:
            fields, others = _csv_columns(path) if kind == "csv" else _json_fields(path), []
    except (*UNREADABLE, pa.ArrowException) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from error
    names = ", ".join(fields) or "none"
    if text_field is None:
        if kind == "json" or len(fields) != 1:
            raise CorpusError(f"{path}: name the field that holds the text with --text-field; there are: {names}")
        text_field = fields[0]
    # A file of broken lines shows no fields; its lines are then counted one by one.
    if text_field not in fields and (fields or kind != "json"):
        raise CorpusError(f"{path} has no text field {text_field!r} (--text-field); there are: {names}")
    if label_field is not None and label_field not in (*fields, *others) and (fields or kind != "json"):
        names = ", ".join((*fields, *others))
        raise CorpusError(f"{path} has no label field {label_field!r} (--label-field); there are: {names}")
    return Source(path, kind, text_field, label_field)


def batches(source: Source, spill: Path, on_bytes: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    """The records of a file in its order, some megabytes at a time.

    spill: a directory for what must be unpacked first. on_bytes: told how many bytes of the file have been read since
    it was last called. Raises CorpusError if the file cannot be read.
    """
    read, size = 0, source.path.stat().st_size
    try:
        with contextlib.ExitStack() as stack:
            if source.kind == "parquet":
                parquet = pq.ParquetFile(_seekable(source.path, spill, stack))
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
                raise CorpusError(f"{source.labels} ends after {read} lines, {source.path} goes on")
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


@contextlib.contextmanager
def _csv_reader(path: Path, stream: BinaryIO) -> Iterator[Any]:
    csv.field_size_limit(MAX_RECORD_BYTES)
    inner = path.with_suffix("") if path.suffix.lower() in PACKED else path
    # Surrogates let a row that is not UTF-8 be counted and the next one be read.
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as text:
        yield csv.reader(text, delimiter="\t" if inner.suffix.lower() == ".tsv" else ",", strict=True)


def _csv_batches(source: Source, stream: BinaryIO) -> Iterator[pa.RecordBatch]:
    lines: list[int] = []
    texts: list[str | None] = []
    faults: list[str | None] = []
    labels: list[str | None] = []
    size = 0
    with _csv_reader(source.path, stream) as reader:
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


def _csv_columns(path: Path) -> list[str]:
    with open_packed(path) as stream, _csv_reader(path, stream) as reader:
        try:
            return next(reader, [])
        except csv.Error as error:
            raise CorpusError(f"{path}, line 1: not CSV ({error})") from error


def _json_fields(path: Path) -> list[str]:
    """The fields of the objects at the beginning of a file."""
    fields: dict[str, None] = {}
    with open_packed(path) as stream:
        for _ in range(_LINES_LOOKED_AT):
            with contextlib.suppress(ValueError):
                found = json.loads(stream.readline(MAX_RECORD_BYTES).decode("utf-8-sig"))
                fields |= dict.fromkeys(found if isinstance(found, dict) else ())
    return list(fields)


def _parquet_columns(path: Path, spill: Path) -> tuple[list[str], list[str]]:
    """The columns of strings, and the others."""
    with contextlib.ExitStack() as stack:
        schema = pq.ParquetFile(_seekable(path, spill, stack)).schema_arrow
    strings = [field.name for field in schema if _is_string(field.type)]
    return strings, [field.name for field in schema if field.name not in strings]


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


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


def _seekable(path: Path, spill: Path, stack: contextlib.ExitStack) -> BinaryIO:
    """Parquet is read from its end: a packed file is unpacked to disk first."""
    if path.suffix.lower() not in PACKED:
        return stack.enter_context(path.open("rb"))
    unpacked = spill / f"{path.name}.unpacked"
    stack.callback(unpacked.unlink, missing_ok=True)
    file = stack.enter_context(unpacked.open("w+b"))
    with open_packed(path) as packed:
        shutil.copyfileobj(packed, file, _BLOCK_BYTES)
    file.seek(0)
    return file
