"""Parquet and Arrow: records by pyarrow, from columns of strings of any kind, dictionaries and nested structs."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from texts.faults import TextsError, quoted
from texts.opening import Opened
from texts.records import CHUNK_RECORDS, NO_TEXT, Chunk, Field, label_text

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise TextsError("Parquet and Arrow need pyarrow: pip install pyarrow") from error

_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}


class Tables:
    """The records of an open Parquet or Arrow file. stack: closes what it opens."""

    def __init__(self, opened: Opened, spill: Path | None, stack: contextlib.ExitStack) -> None:
        self._name = opened.name
        self._opened = opened
        self._read = 0
        try:
            if opened.format == "arrow" and not opened.head.startswith(b"ARROW1"):
                self._file: Any = None
                self._stream = stack.enter_context(pa.ipc.open_stream(stack.enter_context(opened.seekable(spill))))
                self.schema, self.records = self._stream.schema, None
                return
            raw: BinaryIO = stack.enter_context(opened.seekable(spill))
            if opened.format == "parquet":
                # Without pre_buffer=False it keeps what it has read.
                self._file = stack.enter_context(pq.ParquetFile(raw, pre_buffer=False))
                self.schema, self.records = self._file.schema_arrow, self._file.metadata.num_rows
            else:
                self._file = stack.enter_context(pa.ipc.open_file(raw))
                self.schema, self.records = self._file.schema, None
        except pa.ArrowException as error:
            raise TextsError(f"{opened.name} cannot be read: {error}") from error

    def fields(self) -> list[str]:
        """Names of the columns, with those within structs after a dot."""
        return [name for name, _ in _leaves(self.schema)]

    def texts(self) -> list[str]:
        """Of those that hold strings."""
        return [name for name, kind in _leaves(self.schema) if is_text(kind)]

    def position(self) -> int:
        if self.records is None:
            return self._opened.position()
        return int(self._opened.size * self._read // max(1, self.records))

    def chunks(self, fields: Sequence[Field], whole: bool) -> Iterator[Chunk]:
        """The value of a chunk is its pyarrow.RecordBatch, of all columns or of those that the fields need."""
        for field in fields:
            self._refuse_twins(self.schema, field.name)
        place = 1
        columns = None if whole else list({self._top(field.name) for field in fields})
        try:
            for batch in self._batches(columns):
                chunk = self._chunk(batch, place, fields)
                self._read += len(chunk)
                yield chunk
                place += len(chunk)
        except pa.ArrowException as error:
            raise TextsError(f"{self._name} cannot be read: {error}") from error

    def _refuse_twins(self, schema: Any, name: str) -> None:
        """Raises TextsError where a field, or a struct that it is in, is there twice."""
        names = [field.name for field in schema]
        for one in {one for one in names if name == one or name.startswith(f"{one}.")}:
            if names.count(one) > 1:
                raise TextsError(f"{self._name} has {names.count(one)} columns called {quoted(one)}")
            if one != name and pa.types.is_struct(schema[names.index(one)].type):
                self._refuse_twins(list(schema[names.index(one)].type), name.removeprefix(f"{one}."))

    def _top(self, name: str) -> str:
        """The column that a field is in."""
        tops = self.schema.names
        parts = name.split(".")
        ways = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next(way for way in ways if way in tops)

    def _batches(self, columns: list[str] | None) -> Iterator[Any]:
        if isinstance(self._file, pq.ParquetFile):
            yield from self._file.iter_batches(CHUNK_RECORDS, columns=columns)
            return
        whole = self._stream if self._file is None else map(self._file.get_batch, range(self._file.num_record_batches))
        for batch in whole:
            for column in batch.columns:
                _check(column)
            yield from (batch.slice(begin, CHUNK_RECORDS) for begin in range(0, len(batch), CHUNK_RECORDS))

    def _chunk(self, batch: Any, place: int, fields: Sequence[Field]) -> Chunk:
        columns: list[list[str | None]] = []
        faults: list[str | None] = [None] * len(batch)
        for field in fields:
            column = _column(batch, field.name)
            read = _texts if field.kind == "text" else _labels
            values, found = read(column)
            columns.append(values)
            faults = [first or second for first, second in zip(faults, found, strict=True)]
        return Chunk(range(place, place + len(batch)), columns, faults, batch)


def is_text(kind: Any) -> bool:
    """Whether a pyarrow.DataType is one of strings."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _leaves(fields: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _leaves(field.type, f"{before}{field.name}.")
        else:
            yield before + field.name, field.type


def _column(batch: Any, name: str) -> Any:
    """A column by its name, or by its way through structs."""
    if name in batch.schema.names:
        return batch.column(name)
    found: Any = None
    first, dot, rest = name.partition(".")
    while dot and found is None:
        if first in batch.schema.names and pa.types.is_struct(batch.schema.field(first).type):
            column = batch.column(first)
            inner = pa.RecordBatch.from_arrays(column.flatten(), schema=pa.schema(list(column.type)))
            found = _column(inner, rest)
        more, dot, rest = rest.partition(".")
        first = f"{first}.{more}"
    return found


def _check(column: Any) -> None:
    """Offsets and indices, which pyarrow follows wherever they lead. Strings need not be UTF-8. Raises ArrowInvalid."""
    if pa.types.is_dictionary(column.type) and is_text(column.type):
        dictionary = column.dictionary.view(_BYTES[column.type.value_type])
        column = pa.DictionaryArray.from_arrays(column.indices, dictionary, safe=False)
    elif is_text(column.type):
        column = column.view(_BYTES[column.type])
    elif pa.types.is_struct(column.type):
        column.validate()
        for inner in column.flatten():
            _check(inner)
        return
    column.validate(full=True)


def _texts(column: Any) -> tuple[list[str | None], list[str | None]]:
    """Texts, and why they cannot be read."""
    if pa.types.is_dictionary(column.type):
        words, why = _texts(column.dictionary)
        places = column.indices.to_pylist()
        texts = [None if place is None else words[place] for place in places]
        return texts, [NO_TEXT if place is None else why[place] for place in places]
    try:
        texts = column.to_pylist()
        return texts, [NO_TEXT if text is None else None for text in texts]
    except UnicodeDecodeError:
        return _decoded(pc.cast(column, pa.large_binary(), safe=False).to_pylist())


def plain(batch: Any) -> list[dict[str, Any]]:
    """The rows of a pyarrow.RecordBatch; bytes of strings that are not UTF-8 are replaced."""
    columns = []
    for column in batch.columns:
        try:
            columns.append(column.to_pylist())
        except UnicodeDecodeError:
            if not is_text(column.type):
                raise
            flat = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            raw = pc.cast(flat, pa.large_binary(), safe=False).to_pylist()
            columns.append([None if value is None else value.decode("utf-8", "replace") for value in raw])
    return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _decoded(values: list[bytes | None]) -> tuple[list[str | None], list[str | None]]:
    texts: list[str | None] = []
    faults: list[str | None] = []
    for value in values:
        text: str | None = None
        fault: str | None = NO_TEXT
        if value is not None:
            try:
                text, fault = value.decode(), None
            except UnicodeDecodeError as error:
                fault = f"not UTF-8 ({error.reason} at byte {error.start})"
        texts.append(text)
        faults.append(fault)
    return texts, faults


def _labels(column: Any) -> tuple[list[str | None], list[str | None]]:
    """Labels, and why they cannot be read."""
    if is_text(column.type):
        labels, faults = _texts(column)
        return labels, [None if fault == NO_TEXT else fault for fault in faults]
    values = column.to_pylist()
    try:
        return [label_text(value) for value in values], [None] * len(values)
    except TypeError:
        return [None] * len(values), [f"the label is {column.type}"] * len(values)
