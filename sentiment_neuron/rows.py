"""Rows in, rows out: `RowFile`, the rows of a file of texts, and `answer_file`, which writes results beside them.

Every row of the input comes out once, in its order, with all its columns; one that cannot be used carries its error
instead of a result. Memory does not grow with the number of rows.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

from sentiment_neuron.errors import FileError
from sentiment_neuron.parts import CsvFormat, JsonFormat, ParquetFormat, Row, parts
from texts.dialect import Dialect
from texts.faults import Fault, Faults, TextsError, shown
from texts.formats import suffix_of
from texts.preparation import clean
from texts.reader import Records, read_file
from texts.records import Chunk

ROWS = 1024  # of a part; with 4,096 units their features are 16 MiB, and 130 MiB as Python numbers
CHARACTERS = 4 << 20  # of the texts of a part
MOST_COLUMNS = 10_000
ERROR = "error"
EMPTY = "the text is empty"

Kind = Literal["string", "number", "numbers"]
Answer = Callable[[list[str]], Sequence[Row]]

_RECORD = "record"  # what is no object of JSON
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
    """A file of texts, read once to count its rows. Raises TextsError."""

    def __init__(self, path: Path, text_field: str | None, dialect: Dialect) -> None:
        self.path = path
        self._wanted = text_field
        self._dialect = dialect
        keys: dict[str, Any] = {}
        self.total = 0
        with read_file(path, dialect) as records:
            self.format = records.format
            self.schema = records.schema
            self.text_field = records.text_field(text_field).name
            for chunk in records.chunks([]):
                self.total += len(chunk)
                if self.format == "json":
                    for value in chunk.values:
                        keys.update(value if isinstance(value, dict) else {_RECORD: None})
                        if len(keys) > MOST_COLUMNS:
                            raise TextsError(f"{path} has more than {MOST_COLUMNS:,} different keys")
            names = records.fields() if self.schema is None else self.schema.names
            self.columns = list(keys) if self.format == "json" else names
        if twice := sorted(name for name, count in Counter(self.columns).items() if count > 1):
            raise TextsError(f"{path} has more than one column called {shown(twice)}")

    def chunks(self) -> Iterator[Rows]:
        """All rows, as many at once as a part takes."""
        with read_file(self.path, self._dialect) as records:
            field = records.text_field(self._wanted)
            pieces: list[Rows] = []
            rows = characters = 0
            for chunk in records.chunks([field], whole=True):
                for first in range(0, len(chunk), ROWS):
                    piece = _piece(records, chunk, slice(first, first + ROWS))
                    if pieces and (rows + len(piece) > ROWS or characters >= CHARACTERS):
                        yield _joined(pieces)
                        pieces, rows, characters = [], 0, 0
                    pieces.append(piece)
                    rows += len(piece)
                    characters += sum(map(len, piece.texts))
            if pieces:
                yield _joined(pieces)

    def described(self) -> dict[str, Any]:
        """What tells this input from another."""
        status = self.path.stat()
        found = {"input": str(self.path.resolve()), "bytes": status.st_size, "changed": status.st_mtime_ns}
        return found | {"text_field": self.text_field, "dialect": str(self._dialect)}

    def plain(self, values: Any) -> list[Row]:
        """Rows as dicts."""
        match self.format:
            case "parquet" | "arrow":
                from texts.tables import plain  # noqa: PLC0415 - pyarrow takes its time

                return plain(values)
            case "json":
                return [value if isinstance(value, dict) else {_RECORD: _line(value)} for value in values]
            case "text":
                return [{self.columns[0]: _utf8(value)} for value in values]
            case _:
                return [dict(zip(self.columns, map(_utf8, value), strict=False)) for value in values]


def check_files(source: Path, out: Path, known: Sequence[str] = _FORMATS) -> None:
    """Make the directory of `out`; refuse before anything is read what cannot be read or written. known: suffixes.

    Raises FileError.
    """
    if not source.exists():
        raise FileError(f"there is no file {source}")
    if not source.is_file():
        what = "a directory" if source.is_dir() else "no regular file, and rows are counted before they are read"
        raise FileError(f"{source} is {what}: name a file")
    if out.suffix.lower() not in known:
        raise FileError(f"{out}: results are written as {', '.join(known)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{out.parent} cannot be made: {error.strerror}") from error
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
    names = _names(list(kinds), source.columns)
    form, shape = _format(source, out, {names[name]: kind for name, kind in kinds.items()})
    whole = {**source.described(), **asked, "results": list(names.values()), "strict": faults.strict}
    with parts(out, form, whole) as writing:
        advance(done := writing.done)
        for rows in source.chunks():
            for place, fault in zip(rows.places, rows.faults, strict=True):
                if fault is not None:
                    faults.add(Fault(str(source.path), place, fault))
            if done:
                done = skipped(done, rows)
                continue
            usable = [index for index, fault in enumerate(rows.faults) if fault is None]
            found: list[Row] = [{} for _ in rows.texts]
            for index, result in zip(usable, answer([rows.texts[index] for index in usable]), strict=True):
                found[index] = {names[name]: value for name, value in result.items()}
            for index, fault in enumerate(rows.faults):
                if fault is not None:
                    found[index] = {names[ERROR]: fault}
            with _as_file(out, rows):
                writing.write(shape(rows, found), len(rows))
            advance(len(rows))
        writing.finish(source.total)
    return names


def _names(results: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """The column of each result: all as they are called, or all with a prefix, so that no column is replaced."""
    prefixes = chain(["", "neuron_"], (f"neuron_{number}_" for number in count(2)))
    taken = set(columns)
    prefix = next(prefix for prefix in prefixes if taken.isdisjoint(prefix + name for name in results))
    return {name: prefix + name for name in results}


def skipped(done: int, rows: Rows) -> int:
    """How many more rows are there already. Raises FileError where parts are of other rows."""
    if len(rows) > done:
        raise FileError("the input changed while it was read, or another version began: delete the parts")
    return done - len(rows)


@contextmanager
def _as_file(out: Path, rows: Rows) -> Iterator[None]:
    """What a value may not be in the format that is written."""
    try:
        yield
    except (ArithmeticError, ValueError, NotImplementedError, RecursionError) as error:
        raise FileError(f"{out}: {rows.places[0]} to {rows.places[-1]} cannot be written so: {error}") from error


def _piece(records: Records, chunk: Chunk, part: slice) -> Rows:
    texts = [text or "" for text in chunk.columns[0][part]]
    faults = [fault or (None if clean(text) else EMPTY) for text, fault in zip(texts, chunk.faults[part], strict=True)]
    return Rows([records.place(place) for place in chunk.places[part]], texts, faults, chunk.values[part])


def _joined(pieces: list[Rows]) -> Rows:
    if len(pieces) == 1:
        return pieces[0]
    values: Any = [piece.values for piece in pieces]
    return Rows(
        list(chain.from_iterable(piece.places for piece in pieces)),
        list(chain.from_iterable(piece.texts for piece in pieces)),
        list(chain.from_iterable(piece.faults for piece in pieces)),
        list(chain.from_iterable(values)) if isinstance(values[0], list) else _arrow().concat_batches(values),
    )


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
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    kinds = {"string": pa.string(), "number": pa.float64(), "numbers": pa.list_(pa.float32())}
    before = list(source.schema or ((name, pa.string()) for name in source.columns))
    schema = pa.schema([*before, *((name, kinds[kind]) for name, kind in results.items())])
    try:
        pq.write_table(schema.empty_table(), io.BytesIO())
    except pa.ArrowException as error:
        raise FileError(f"{source.path} has columns that Parquet does not hold ({error}): write .jsonl") from error

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
    return value if value is None else _line(value)


def _line(value: object) -> str:
    return _utf8(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _utf8(text: str) -> str:
    """Bytes that are not of the encoding, and lone surrogates, are replaced."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _arrow() -> Any:
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional: for Parquet alone
    except ModuleNotFoundError as error:
        raise FileError("Parquet needs pyarrow: pip install pyarrow") from error
    return pa
