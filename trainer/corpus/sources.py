"""Files of reviews: which ones a name stands for, in which format each is (`Source`), and how it is opened."""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from model.texts.packed import PACKED, UNREADABLE, open_packed
from trainer.corpus.corpus import CorpusError

MAX_RECORD_BYTES = 64 << 20  # a file without newlines is not a file of reviews and must not fill the memory
_COPIED_AT_ONCE_BYTES = 4 << 20
_LINES_LOOKED_AT = 100  # enough to see which fields the objects of a file have

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
            raise CorpusError(f"{name} cannot be read: {error.strerror}") from error
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

    text_field may be None for text, and where there is only one column of strings. spill: a directory for what must be
    unpacked first. labels: a directory with a file of the same name for each file of text that has labels. Raises
    CorpusError naming the columns if text or label is not among them, or text_field is needed.
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


@contextlib.contextmanager
def csv_reader(path: Path, stream: BinaryIO) -> Iterator[Any]:
    """Rows of the unpacked file `path`; closes `stream`. A field longer than MAX_RECORD_BYTES is a csv.Error."""
    csv.field_size_limit(MAX_RECORD_BYTES)
    inner = path.with_suffix("") if path.suffix.lower() in PACKED else path
    # Surrogates let a row that is not UTF-8 be counted and the next one be read.
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as text:
        yield csv.reader(text, delimiter="\t" if inner.suffix.lower() == ".tsv" else ",", strict=True)


def _csv_columns(path: Path) -> list[str]:
    with open_packed(path) as stream, csv_reader(path, stream) as reader:
        try:
            return next(reader, [])
        except csv.Error as error:
            raise CorpusError(f"{path}, line 1: not CSV ({error})") from error


def _json_fields(path: Path) -> list[str]:
    """The fields of the objects in the first lines of a file."""
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
        schema = pq.ParquetFile(seekable(path, spill, stack)).schema_arrow
    strings = [field.name for field in schema if _is_string(field.type)]
    return strings, [field.name for field in schema if field.name not in strings]


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def seekable(path: Path, spill: Path, stack: contextlib.ExitStack) -> BinaryIO:
    """The file, open until `stack` closes. Parquet is read from its end, so a packed file is unpacked to disk first."""
    if path.suffix.lower() not in PACKED:
        return stack.enter_context(path.open("rb"))
    unpacked = spill / f"{path.name}.unpacked"
    stack.callback(unpacked.unlink, missing_ok=True)
    file = stack.enter_context(unpacked.open("w+b"))
    with open_packed(path) as packed:
        shutil.copyfileobj(packed, file, _COPIED_AT_ONCE_BYTES)
    file.seek(0)
    return file
