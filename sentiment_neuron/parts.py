"""A file of results that grows in parts, so that what was killed continues: `Parts`.

Beside OUT lies a directory, OUT.parts: a file for each part, whole or not at all, and what they are parts of. When all
rows are there, the parts become OUT, and the directory goes.
"""

import csv
import io
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from model.checkpoints.durable import exclusively, replace_file, sync
from sentiment_neuron.errors import FileError

Row = dict[str, Any]

_ASKED = "asked.json"
_COPIED_AT_ONCE_BYTES = 4 << 20


class Format(Protocol):
    """How rows become a file."""

    def part(self, file: IO[bytes], rows: Any) -> None:
        """Write one part."""

    def join(self, out: IO[bytes], parts: Sequence[Path]) -> None:
        """Write all parts as one file."""


class Parts:
    """The parts of a file that is being made. done: rows that are there already, by a run that was killed."""

    def __init__(self, out: Path, directory: Path, done: int, count: int, form: Format) -> None:
        self.done = self._rows = done
        self._out = out
        self._directory = directory
        self._count = count
        self._format = form

    def write(self, rows: Any, count: int) -> None:
        """Add the next rows. Once it has returned they are not lost. Raises FileError."""
        with _writing(self._out):
            path = self._directory / f"{self._count:08}.{count}.part"
            temporary = path.with_suffix(".writing")
            with temporary.open("wb") as file:
                self._format.part(file, rows)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(self._directory)
        self._count += 1
        self._rows += count

    def finish(self, total: int) -> None:
        """Make the file of `total` rows. Raises FileError, also where there are fewer or more."""
        parts = _parts(self._directory)
        there = sum(map(_rows_of, parts))
        if there != total:
            raise FileError(f"{self._directory} holds {there:,} rows, not {total:,}: delete it to begin anew")
        with _writing(self._out):
            whole = self._directory / "whole"
            with whole.open("wb") as file:
                self._format.join(file, parts)
                file.flush()
                os.fsync(file.fileno())
            whole.replace(self._out)
            (self._directory / _ASKED).unlink()  # first: what is left without it is not continued
            sync(self._directory)
            shutil.rmtree(self._directory, ignore_errors=True)


@contextmanager
def parts(out: Path, form: Format, asked: dict[str, Any]) -> Iterator[Parts]:
    """Begin a file, or go on where a run that was asked the same was stopped. asked: what the rows depend on.

    Raises FileError where another process is at it, or what is there was asked otherwise.
    """
    directory = _directory(out)
    with _writing(out):
        directory.mkdir(exist_ok=True)
    with ExitStack() as held:
        with _writing(out):
            try:
                held.enter_context(exclusively(directory / "lock", 0))
            except TimeoutError as error:
                raise FileError(f"another process is writing {out}") from error
        note = directory / _ASKED
        with _writing(out):
            if not note.exists():
                for path in directory.glob("*.part"):
                    path.unlink()
                replace_file(note, json.dumps(asked, indent=1))
            there = _parts(directory)
        if _noted(note) != asked:
            raise FileError(
                f"{directory} holds the beginning of another result: of another input, model or options. Delete it "
                "to begin anew, or name another --out"
            )
        yield Parts(out, directory, sum(map(_rows_of, there)), len(there), form)


def _directory(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def _parts(directory: Path) -> list[Path]:
    """The parts from the first on, without a gap; those behind one are removed."""
    found = sorted(directory.glob("*.part"))
    whole = [path for number, path in enumerate(found) if path.name.startswith(f"{number:08}.")]
    for path in found[len(whole) :]:
        path.unlink()
    return whole


def _rows_of(part: Path) -> int:
    return int(part.name.split(".")[1])


def _noted(note: Path) -> object:
    """What was asked; None where that cannot be read."""
    try:
        return json.loads(note.read_text())
    except ValueError:
        return None


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(
            f"{out} cannot be written: {error.strerror or error}; the same command continues with what is in "
            f"{_directory(out)}"
        ) from error


def _append(out: IO[bytes], parts: Sequence[Path]) -> None:
    for path in parts:
        with path.open("rb") as part:
            shutil.copyfileobj(part, out, _COPIED_AT_ONCE_BYTES)


class CsvFormat:
    """CSV with a header; what is no string is written as JSON is, null as nothing."""

    def __init__(self, columns: Sequence[str], delimiter: str = ",") -> None:
        self._columns = columns
        self._delimiter = delimiter

    def part(self, file: IO[bytes], rows: Sequence[Row]) -> None:
        self._write(file, ([_cell(row.get(column)) for column in self._columns] for row in rows))

    def join(self, out: IO[bytes], parts: Sequence[Path]) -> None:
        self._write(out, [list(self._columns)])
        _append(out, parts)

    def _write(self, file: IO[bytes], rows: Any) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="", write_through=True)
        plain = csv.writer(text, delimiter=self._delimiter, lineterminator="\n")
        quoted = csv.writer(text, delimiter=self._delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in rows:
            # Python before 3.13 does not quote a carriage return, which ends a row for those who read it.
            (quoted if any(isinstance(cell, str) and "\r" in cell for cell in row) else plain).writerow(row)
        text.detach()


class JsonFormat:
    """An object a line."""

    def part(self, file: IO[bytes], rows: Sequence[Row]) -> None:
        for row in rows:
            file.write(_json(row) + b"\n")

    def join(self, out: IO[bytes], parts: Sequence[Path]) -> None:
        _append(out, parts)


class ParquetFormat:
    """Parquet. rows of a part: a pyarrow.RecordBatch of `schema`."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema

    def part(self, file: IO[bytes], rows: Any) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415 - optional: for Parquet alone

        with pq.ParquetWriter(file, self._schema) as writer:
            writer.write_batch(rows)

    def join(self, out: IO[bytes], parts: Sequence[Path]) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415 - optional: for Parquet alone

        # The schema of a part: Parquet keeps some types as others.
        with pq.ParquetWriter(out, pq.read_schema(parts[0]) if parts else self._schema) as writer:
            for path in parts:
                with pq.ParquetFile(path, pre_buffer=False) as part:
                    for batch in part.iter_batches():
                        writer.write_batch(batch)


class ArrayFormat:
    """A NumPy file of float32, (rows, width). rows of a part: an array."""

    def __init__(self, width: int, total: int) -> None:
        self._shape = (total, width)

    def part(self, file: IO[bytes], rows: Any) -> None:
        file.write(np.ascontiguousarray(rows, dtype="<f4").data)

    def join(self, out: IO[bytes], parts: Sequence[Path]) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(out, header)
        _append(out, parts)


def _cell(value: object) -> object:
    if isinstance(value, bool | int | float | list | dict):
        return _json(value).decode()
    return value if value is None else str(value)  # of Parquet also times and decimals


def _json(value: Any) -> bytes:
    """NaN and infinities as null; a lone surrogate, which has no UTF-8, by its number."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, default=str)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(_finite(value), default=str).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return list(map(_finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
