"""Files of texts to files of features, a chunk at a time: memory does not grow with the number of texts.

Row i of the output belongs to text i of the input, so a blank text keeps its row. What is wrong with a file raises
FileError.
"""

import csv
import io
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from model.texts.packed import UNREADABLE, open_packed
from sentiment_neuron.errors import FileError

CHUNK = 4096  # texts; with 4096 units 64 MiB of features
FEATURES = "features"  # column in Parquet

Write = Callable[[list[str], NDArray[np.float32]], None]
Features = NDArray[np.float32]

_INPUTS = (".txt", ".csv", ".parquet")
_OUTPUTS = (".npy", ".parquet")
_PACKED = (".gz", ".xz")


class TextFile:
    """The texts of a .txt file (one a line), a .csv (also .gz and .xz of both) or a .parquet file."""

    def __init__(self, path: Path, column: str) -> None:
        """column: of the texts, in CSV and Parquet."""
        self._path = path
        self._column = column
        packed = path.suffix.lower() in _PACKED
        self._suffix = (path.with_suffix("") if packed else path).suffix.lower()
        if self._suffix not in _INPUTS or (packed and self._suffix == ".parquet"):
            raise FileError(
                f"{path}: unknown suffix; known are .txt and .csv, each also packed as .gz or .xz, and .parquet"
            )

    def count(self) -> int:
        """How many texts there are; reads the file once. An empty file is an error."""
        total = sum(1 for _ in self._texts())
        if total == 0:
            raise FileError(f"{self._path} holds no texts")
        return total

    def chunks(self) -> Iterator[list[str]]:
        """All texts in their order, at most CHUNK at once."""
        texts = self._texts()
        while chunk := list(islice(texts, CHUNK)):
            yield chunk

    def _texts(self) -> Iterator[str]:
        read = {".txt": self._lines, ".csv": self._rows, ".parquet": self._cells}[self._suffix]
        try:
            yield from read()
        except (*UNREADABLE, ValueError, csv.Error) as error:
            raise FileError(f"{self._path} cannot be read: {error}") from error

    def _lines(self) -> Iterator[str]:
        # Only "\n" ends a line, so the rows are those that `wc -l` counts.
        with self._open("\n") as lines:
            for line in lines:
                yield line.removesuffix("\n").removesuffix("\r")

    def _rows(self) -> Iterator[str]:
        # A review may be longer than the csv module's 128 KiB.
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        with self._open("") as lines:
            reader = csv.DictReader(lines)
            self._require(list(reader.fieldnames or []))
            for row in reader:
                text = row[self._column]
                if text is None:
                    raise FileError(f"{self._path}, line {reader.line_num}: no column {self._column!r}")
                yield text

    def _cells(self) -> Iterator[str]:
        arrow, parquet = _arrow()
        with self._path.open("rb") as content, parquet.ParquetFile(content) as file:
            self._require(file.schema_arrow.names)
            kind = file.schema_arrow.field(self._column).type
            if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
                raise FileError(f"{self._path}: column {self._column!r} holds {kind}, not text")
            for part in file.iter_batches(batch_size=CHUNK, columns=[self._column]):
                for text in part.column(0).to_pylist():
                    yield text or ""  # a null is a blank text

    def _require(self, columns: list[str]) -> None:
        if not columns:
            raise FileError(f"{self._path} holds no texts")
        if self._column not in columns:
            known = ", ".join(columns)
            raise FileError(f"{self._path} has no column {self._column!r}; its columns: {known}")

    def _open(self, newline: str) -> TextIO:
        # A byte order mark, as spreadsheets write it, is not a part of the first text.
        return io.TextIOWrapper(open_packed(self._path), encoding="utf-8-sig", newline=newline)


def check_output(path: Path, source: Path, column: str) -> None:
    """Refuse before any text is read what cannot be written."""
    if path.suffix.lower() not in _OUTPUTS:
        raise FileError(f"{path}: unknown suffix; features are written as {' or '.join(_OUTPUTS)}")
    if not path.parent.is_dir():
        raise FileError(f"{path.parent} is not a directory")
    if path.exists() and path.samefile(source):
        raise FileError(f"{path} is the input itself")
    if path.suffix.lower() == ".parquet":
        _arrow()
        if column == FEATURES:
            raise FileError(f"the column of the texts cannot be called {FEATURES!r}: that of the features is")


@contextmanager
def features_file(path: Path, column: str, total: int, units: int) -> Iterator[Write]:
    """`write(texts, features)` adds rows to a file that appears at `path` when all `total` are there.

    .npy: (texts, units) float32. .parquet: the texts under `column`, and `features`, a list of float each.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    written = 0
    try:
        with temporary.open("wb") as stream:
            opened = _npy(stream, total, units) if path.suffix.lower() == ".npy" else _parquet(stream, column)
            with opened as add:

                def write(texts: list[str], features: Features) -> None:
                    nonlocal written
                    written += len(texts)
                    add(texts, features)

                yield write
        if written != total:
            raise FileError(f"the input changed while it was read: {written} texts, {total} before")
        temporary.replace(path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _npy(stream: IO[bytes], total: int, units: int) -> Iterator[Write]:
    # Written in order, not through a memory map: there a full disk would kill the process by SIGBUS.
    header = {"descr": "<f4", "fortran_order": False, "shape": (total, units)}
    np.lib.format.write_array_header_1_0(stream, header)
    yield lambda _texts, features: _append(stream, features)


def _append(stream: IO[bytes], features: Features) -> None:
    stream.write(np.ascontiguousarray(features, dtype="<f4").data)


@contextmanager
def _parquet(stream: IO[bytes], column: str) -> Iterator[Write]:
    arrow, parquet = _arrow()
    schema = arrow.schema([(column, arrow.string()), (FEATURES, arrow.list_(arrow.float32()))])
    with parquet.ParquetWriter(stream, schema) as writer:

        def write(texts: list[str], features: Features) -> None:
            rows, units = features.shape
            offsets = arrow.array(np.arange(0, (rows + 1) * units, units, dtype=np.int32))
            lists = arrow.ListArray.from_arrays(offsets, arrow.array(features.reshape(-1)))
            writer.write_table(arrow.table([arrow.array(texts, arrow.string()), lists], schema=schema))

        yield write


def _arrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet, imported for a Parquet file alone because that takes its time."""
    try:
        import pyarrow  # noqa: PLC0415 - optional: for Parquet alone
        import pyarrow.parquet  # noqa: PLC0415 - optional: for Parquet alone
    except ModuleNotFoundError as error:
        raise FileError("Parquet needs pyarrow: pip install pyarrow") from error
    return pyarrow, pyarrow.parquet
