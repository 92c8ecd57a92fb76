"""A file of results that grows in parts, so that what was killed continues: `Parts`.

Beside OUT lies a directory, OUT.parts: a file for each part, whole or not at all, and what they are parts of. When all
rows are there, the parts become OUT, and the directory goes.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from model.checkpoints.durable import exclusively, replace_file
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
        self._count += 1
        self._rows += count

    def finish(self, total: int) -> None:
        """Make the file of `total` rows. Raises FileError, also where there are fewer or more."""
        if self._rows != total:
            raise FileError(f"the input changed while it was read: {self._rows:,} rows, {total:,} before")
        with _writing(self._out):
            whole = self._directory / "whole"
            with whole.open("wb") as file:
                self._format.join(file, _parts(self._directory))
                file.flush()
                os.fsync(file.fileno())
            whole.replace(self._out)
            shutil.rmtree(self._directory)


@contextmanager
def parts(out: Path, form: Format, asked: dict[str, Any]) -> Iterator[Parts]:
    """Begin a file, or go on where a run that was asked the same was stopped. asked: what the rows depend on.

    Raises FileError where another process is at it, or what is there was asked otherwise.
    """
    if not out.parent.is_dir():
        raise FileError(f"{out.parent} is not a directory")
    directory = out.with_name(f"{out.name}.parts")
    with _writing(out):
        directory.mkdir(exist_ok=True)
    try:
        with exclusively(directory / "lock", 0):
            note = directory / _ASKED
            if not note.exists():
                with _writing(out):
                    replace_file(note, json.dumps(asked, indent=1))
            elif json.loads(note.read_text()) != asked:
                raise FileError(
                    f"{directory} holds the beginning of another result: of another input, model or options. Delete it "
                    "to begin anew, or name another --out"
                )
            there = _parts(directory)
            yield Parts(out, directory, sum(int(path.name.split(".")[1]) for path in there), len(there), form)
    except TimeoutError as error:
        raise FileError(f"another process is writing {out}") from error


def _parts(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.part"))


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"{out} cannot be written: {error.strerror or error}") from error


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
        csv.writer(text, delimiter=self._delimiter, lineterminator="\n").writerows(rows)
        text.detach()


class JsonFormat:
    """An object a line."""

    def part(self, file: IO[bytes], rows: Sequence[Row]) -> None:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n")

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

        with pq.ParquetWriter(out, self._schema) as writer:
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
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
