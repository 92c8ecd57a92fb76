"""The one reader of files of texts, in every format: `read_file`, and `read_stream` for what comes through a pipe."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from texts.delimited import Delimited
from texts.dialect import AS_IT_IS, Dialect
from texts.faults import TextsError, quoted, shown
from texts.formats import place
from texts.objects import Objects
from texts.opening import Opened, open_file, open_stream, readable
from texts.records import LABEL, TEXT, Chunk, Field, not_of_the_encoding


class _Parser(Protocol):
    def fields(self) -> list[str]: ...
    def texts(self) -> list[str]: ...
    def position(self) -> int: ...
    def chunks(self, fields: Sequence[Field], whole: bool) -> Iterator[Chunk]: ...


class Records:
    """The records of an open file."""

    def __init__(self, opened: Opened, parser: _Parser) -> None:
        self.name = opened.name
        self.format = opened.format
        self._opened = opened
        self._parser = parser

    @property
    def schema(self) -> Any:
        """The pyarrow.Schema of Parquet and Arrow; None of other formats."""
        return getattr(self._parser, "schema", None)

    def fields(self) -> list[str]:
        """Names of the columns; of JSON the keys of the first objects."""
        return self._parser.fields()

    def position(self) -> int:
        """About how many bytes of the file have been read, as it is packed."""
        return self._parser.position()

    def chunks(self, fields: Sequence[Field], whole: bool = False) -> Iterator[Chunk]:
        """All records in their order, some thousands at once. whole: with the values of all their fields, where that
        costs more. Raises TextsError."""
        with readable(self.name):
            yield from self._parser.chunks(fields, whole)

    def text_field(self, wanted: str | None, label: str | None = None) -> Field:
        """The field of the texts. wanted: its name, or None for the only one beside the label, or `text`.

        Raises TextsError naming those that there are. Of JSON any name may be wanted: it may first come late.
        """
        guessed = wanted is None
        if self.format == "text":
            return Field(TEXT, "text")
        if wanted is None:
            names = [name for name in self._parser.texts() if name != (label or LABEL)]
            if not names and self.format == "json":
                names = [TEXT]  # it may first come late
            if not self.fields() and self.format != "json":
                raise TextsError(f"{self.name}: the file is empty")
            if len(names) != 1 and TEXT not in names:
                raise TextsError(
                    f"{self.name}: name the field that holds the text with --text-field; there are: {shown(names)}"
                    f"{self._other_delimiter()}"
                )
            wanted = TEXT if TEXT in names else names[0]
        elif self.format != "json" and wanted not in self._parser.texts():
            why = "holds no text" if wanted in self.fields() else "is not there"
            raise TextsError(
                f"{self.name}: the text field {quoted(wanted)} {why} (--text-field); there are: "
                f"{shown(self._parser.texts())}{self._other_delimiter()}"
            )
        return Field(wanted, "text", guessed and wanted != TEXT)

    def label_field(self, wanted: str) -> Field:
        """The field of the labels, by its name. Raises as `text_field`."""
        if self.format == "text":
            raise TextsError(f"{self.name} is text, a text a line, which has no labels (--format)")
        if self.format != "json" and wanted not in self.fields():
            raise TextsError(
                f"{self.name}: the label field {quoted(wanted)} is not there (--label-field); there are: "
                f"{shown(self.fields())}{self._other_delimiter()}"
            )
        return Field(wanted, "label")

    def _other_delimiter(self) -> str:
        names = self.fields()
        if self.format in ("csv", "tsv") and len(names) == 1 and (found := [c for c in ";\t|," if c in names[0]]):
            return f"; if {found[0]!r} separates them, give --delimiter"
        return ""

    def place(self, number: int) -> str:
        """Where a record is, in words: its line, or its row."""
        return place(self.format, number)


@contextlib.contextmanager
def read_file(path: Path, dialect: Dialect = AS_IT_IS, spill: Path | None = None) -> Iterator[Records]:
    """spill: a directory for Parquet that must be unpacked first. Raises TextsError."""
    with open_file(path, dialect) as opened, contextlib.ExitStack() as stack:
        yield _records(opened, spill, stack)


@contextlib.contextmanager
def read_stream(stream: BinaryIO, name: str, dialect: Dialect) -> Iterator[Records]:
    """As `read_file`. name: in messages, and for its suffix where `dialect` has no format."""
    with open_stream(stream, name, dialect) as opened, contextlib.ExitStack() as stack:
        yield _records(opened, None, stack)


def _records(opened: Opened, spill: Path | None, stack: contextlib.ExitStack) -> Records:
    with readable(opened.name):
        return Records(opened, _parser(opened, spill, stack))


def _parser(opened: Opened, spill: Path | None, stack: contextlib.ExitStack) -> _Parser:
    match opened.format:
        case "text":
            return _Lines(opened)
        case "csv" | "tsv":
            return Delimited(opened)
        case "json":
            return Objects(opened)
        case "parquet" | "arrow":
            from texts.tables import Tables  # noqa: PLC0415 - pyarrow takes its time

            return Tables(opened, spill, stack)


class _Lines:
    """The records of text: a text a line."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    def fields(self) -> list[str]:
        return [TEXT]

    texts = fields

    def position(self) -> int:
        return self._opened.position()

    def chunks(self, fields: Sequence[Field], whole: bool) -> Iterator[Chunk]:
        encoding, number = self._opened.dialect.encoding, 0
        for lines in self._opened.lines():
            found: list[str | None] = list(lines)
            faults: list[str | None] = [None] * len(lines)
            for index, line in enumerate(lines):
                if not line.isascii() and (fault := not_of_the_encoding(line, encoding)) is not None:
                    found[index], faults[index] = None, fault
            places = range(number + 1, number + 1 + len(lines))
            yield Chunk(places, [found for _ in fields], faults, lines)
            number += len(lines)
