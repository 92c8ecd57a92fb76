"""Rows in, rows out: `RowFile`, the rows of a file of texts, and `answer_file`, which writes results beside them.

Every row of the input comes out once, in its order, with all its columns; one that cannot be used carries its error
instead of a result. Memory does not grow with the number of rows.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from sentiment_neuron.errors import FileError
from sentiment_neuron.parts import CsvFormat, JsonFormat, ParquetFormat, Row, parts
from texts.dialect import Dialect
from texts.faults import Fault, Faults, TextsError, shown
from texts.formats import suffix_of
from texts.preparation import clean
from texts.reader import read_file

ROWS = 4096  # of a part; with 4096 units 64 MiB of features
ERROR = "error"
EMPTY = "the text is empty"

Kind = Literal["string", "number", "numbers"]
Answer = Callable[[list[str]], Sequence[Row]]

_PREFIX = "neuron_"
_RECORD = "record"  # a line that is no JSON
_FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Rows:
    """Some rows: their texts, why they cannot be used, and what they are (texts/records.py). places: for messages."""

    places: list[str]
    texts: list[str]
    faults: list[str | None]
    values: Any

    def __len__(self) -> int:
        return len(self.texts)


class RowFile:
    """A file of texts, read once to count its rows. Raises TextsError, also where it has none."""

    def __init__(self, path: Path, text_field: str | None, dialect: Dialect) -> None:
        self.path = path
        self._wanted = text_field
        self._dialect = dialect
        keys: dict[str, None] = {}
        self.total = 0
        with read_file(path, dialect) as records:
            self.schema = records.schema
            self.text_field = records.text_field(text_field).name
            for chunk in records.chunks([]):
                self.total += len(chunk)
                if records.format == "json":
                    for value in chunk.values:
                        keys |= dict.fromkeys(value if isinstance(value, dict) else (_RECORD,))
            self.columns = list(keys) or (records.fields() if self.schema is None else self.schema.names)
        if self.total == 0:
            raise TextsError(f"{path} holds no texts")
        if twice := sorted({name for name in self.columns if self.columns.count(name) > 1}):
            raise TextsError(f"{path} has more than one column called {shown(twice)}")

    def chunks(self, skipped: int = 0) -> Iterator[Rows]:
        """All rows behind the first `skipped`, at most ROWS at once."""
        with read_file(self.path, self._dialect) as records:
            field = records.text_field(self._wanted)
            for chunk in records.chunks([field], whole=True):
                begin = min(skipped, len(chunk))
                skipped -= begin
                for first in range(begin, len(chunk), ROWS):
                    part = slice(first, first + ROWS)
                    texts = [text or "" for text in chunk.columns[0][part]]
                    faults = [
                        fault or (None if clean(text) else EMPTY)
                        for text, fault in zip(texts, chunk.faults[part], strict=True)
                    ]
                    places = [records.place(place) for place in chunk.places[part]]
                    yield Rows(places, texts, faults, chunk.values[part])

    def described(self) -> dict[str, Any]:
        """What tells this input from another."""
        status = self.path.stat()
        found = {"input": str(self.path.resolve()), "bytes": status.st_size, "changed": status.st_mtime_ns}
        return found | {"text_field": self.text_field, "dialect": str(self._dialect)}

    def plain(self, values: Any) -> list[Row]:
        """Rows as dicts."""
        if self.schema is not None:
            return list(values.to_pylist())
        return [self._plain(value) for value in values]

    def _plain(self, value: Any) -> Row:
        if isinstance(value, dict):
            return value
        if isinstance(value, list):
            return dict(zip(self.columns, map(_utf8, value), strict=False))
        return {self.columns[0] if len(self.columns) == 1 else _RECORD: _utf8(value)}


def check_output(out: Path, source: Path, known: Sequence[str] = _FORMATS) -> None:
    """Refuse before anything is read what cannot be written. known: suffixes. Raises FileError."""
    if out.suffix.lower() not in known:
        raise FileError(f"{out}: results are written as {', '.join(known)}")
    if not out.parent.is_dir():
        raise FileError(f"{out.parent} is not a directory")
    if out.exists() and out.samefile(source):
        raise FileError(f"{out} is the input itself")
    if out.suffix.lower() == ".parquet":
        _arrow()


def answer_file(
    source: RowFile,
    out: Path,
    results: Mapping[str, Kind],
    answer: Answer,
    asked: Mapping[str, Any],
    faults: Faults,
    advance: Callable[[int], None],
) -> dict[str, str]:
    """Write every row of `source` with its results, and continue what was stopped. Returns the column of each result.

    results: names and kinds of what `answer` gives for a text. asked: what the results depend on beside the input.
    faults: gets the rows that cannot be used. advance: gets the number of rows just done. Raises FileError, TextsError.
    """
    kinds: dict[str, Kind] = {**results, ERROR: "string"}
    taken = set(source.columns) & kinds.keys()
    names = {name: (_PREFIX if taken else "") + name for name in kinds}
    form, shape = _format(source, out, {names[name]: kind for name, kind in kinds.items()})
    with parts(out, form, {**source.described(), **asked}) as writing:
        advance(writing.done)
        for rows in source.chunks(writing.done):
            usable = [index for index, fault in enumerate(rows.faults) if fault is None]
            found: list[Row] = [{} for _ in rows.texts]
            for index, result in zip(usable, answer([rows.texts[index] for index in usable]), strict=True):
                found[index] = {names[name]: value for name, value in result.items()}
            for index, fault in enumerate(rows.faults):
                if fault is not None:
                    faults.add(Fault(str(source.path), rows.places[index], fault))
                    found[index] = {names[ERROR]: fault}
            writing.write(shape(rows, found), len(rows))
            advance(len(rows))
        writing.finish(source.total)
    return names


def _format(source: RowFile, out: Path, results: Mapping[str, Kind]) -> tuple[Any, Callable[[Rows, list[Row]], Any]]:
    """How rows become a file, and how they are handed to it."""

    def merged(rows: Rows, found: list[Row]) -> list[Row]:
        nothing = dict.fromkeys(results)
        return [row | nothing | result for row, result in zip(source.plain(rows.values), found, strict=True)]

    columns = [*source.columns, *results]
    match suffix_of(out.name):
        case ".csv":
            return CsvFormat(columns), merged
        case ".tsv":
            return CsvFormat(columns, "\t"), merged
        case ".parquet":
            return _parquet(source, results)
        case _:
            return JsonFormat(), merged


def _parquet(source: RowFile, results: Mapping[str, Kind]) -> tuple[Any, Callable[[Rows, list[Row]], Any]]:
    pa = _arrow()
    kinds = {"string": pa.string(), "number": pa.float64(), "numbers": pa.list_(pa.float32())}
    before = list(source.schema or ((name, pa.string()) for name in source.columns))
    schema = pa.schema([*before, *((name, kinds[kind]) for name, kind in results.items())])

    def shape(rows: Rows, found: list[Row]) -> Any:
        if source.schema is None:
            plain = source.plain(rows.values)
            given = [pa.array([_string(row.get(name)) for row in plain], pa.string()) for name in source.columns]
        else:
            given = rows.values.columns
        added = [pa.array([row.get(name) for row in found], kinds[kind]) for name, kind in results.items()]
        return pa.record_batch(list(chain(given, added)), schema=schema)

    return ParquetFormat(schema), shape


def _string(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _utf8(text: str) -> str:
    """Bytes that are not of the encoding are replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _arrow() -> Any:
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional: for Parquet alone
    except ModuleNotFoundError as error:
        raise FileError("Parquet needs pyarrow: pip install pyarrow") from error
    return pa
