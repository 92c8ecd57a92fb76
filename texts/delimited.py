"""CSV and TSV: records by Python's csv module, and no line lost to a quote that is never closed.

Python's module, in strict mode, gets right what others do not: DuckDB 2.0.0 reads other rows with several threads
than with one where quoted fields hold newlines, and names records instead of lines; pyarrow stops at the first fault.
A quote that is closed wrongly, or never, would swallow the lines behind it: then its first line alone is left out, and
the next ones are read again.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from texts.faults import TextsError, quoted
from texts.opening import MAX_RECORD_BYTES, Opened
from texts.records import Chunk, Field, not_of_the_encoding

_MOST_CHARACTERS = 4 << 20  # of a record of several lines: further than that no quote reaches
_MOST_READ_AGAIN = 256 << 20
_FEW_LINES = 4  # that are tried behind a fault, and twice as many each time that none is found
_DELIMITERS = ",;\t"

# A carriage return within a line that no quote protects, as pandas writes it, would end the record for the csv module.
# It stands as a code that no decoder gives.
_LONE_RETURNS = re.compile(r"(?<!\r)\r++(?=[^\r\n])")
_STANDS_FOR_IT = "\udc0d"

_QUOTED = re.compile('"[^"]*"')
_END = "unexpected end of data"  # what the csv module says of a quote that is open where the lines end


@dataclass
class _Block:
    """Some records: lines that they begin and end on, fields (of a broken one what is written there), and faults."""

    begins: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    values: list[list[str]] = field(default_factory=list)
    faults: list[str | None] = field(default_factory=list)

    def keep(self, kept: Sequence[int]) -> None:
        """Leave the other records out."""
        for name, column in vars(self).items():
            setattr(self, name, [column[index] for index in kept])


class Delimited:
    """The records of an open CSV or TSV file."""

    def __init__(self, opened: Opened) -> None:
        """Reads the header. Raises TextsError."""
        csv.field_size_limit(MAX_RECORD_BYTES)
        self._opened = opened
        dialect = opened.dialect
        self._coming = opened.lines(ends=True)
        first = next(self._coming, [])
        plain = opened.format == "tsv" and dialect.quote is None
        quote = '"' if dialect.quote is None else dialect.quote
        self._form: dict[str, Any] = {
            "delimiter": dialect.delimiter or ("\t" if opened.format == "tsv" else _delimiter(first)),
            "quotechar": quote or None,
            "quoting": csv.QUOTE_NONE if plain or not quote else csv.QUOTE_MINIMAL,
            "escapechar": dialect.escape,
            "strict": True,
        }
        self.names: list[str] = []
        self._blocks = self._read(first)
        self._begun = next((block for block in self._blocks if block.values), _Block())
        if self._begun.values and dialect.header:
            names, fault = self._begun.values[0], self._begun.faults[0]
            if fault := fault or not_of_the_encoding("".join(names), dialect.encoding):
                raise TextsError(f"{opened.name}, line {self._begun.begins[0]}: {fault}")
            self._begun.keep(range(1, len(self._begun.values)))
            self.names = names
        elif self._begun.values:
            whole = [value for value, why in zip(self._begun.values, self._begun.faults, strict=True) if why is None]
            self.names = [str(number) for number in range(1, len(whole[0] if whole else [""]) + 1)]

    def fields(self) -> list[str]:
        """Names of the columns."""
        return self.names

    def texts(self) -> list[str]:
        """Of those that may hold texts: all."""
        return self.names

    def position(self) -> int:
        return self._opened.position()

    def chunks(self, fields: Sequence[Field], whole: bool) -> Iterator[Chunk]:
        """Raises TextsError for a field that is not there, or twice."""
        wanted = [self._column(field.name) for field in fields]
        for block in chain([self._begun], self._blocks):
            if block.values:
                yield self._chunk(block, wanted)

    def _column(self, name: str) -> int:
        if self.names.count(name) > 1:
            raise TextsError(f"{self._opened.name} has {self.names.count(name)} columns called {quoted(name)}")
        return self.names.index(name)

    def _chunk(self, block: _Block, wanted: Sequence[int]) -> Chunk:
        columns: list[list[str | None]]
        if not any(block.faults):
            columns = [[value[column] for value in block.values] for column in wanted]
            if not any(self._foreign("".join(map(str, column))) for column in columns):
                return Chunk(block.begins, columns, block.faults, block.values)
        faults = [
            fault or next((why for column in wanted if (why := self._foreign(value[column]))), None)
            for value, fault in zip(block.values, block.faults, strict=True)
        ]
        columns = [
            [None if fault else value[column] for value, fault in zip(block.values, faults, strict=True)]
            for column in wanted
        ]
        return Chunk(block.begins, columns, faults, block.values)

    def _foreign(self, text: str) -> str | None:
        return not_of_the_encoding(text, self._opened.dialect.encoding)

    def _read(self, lines: list[str]) -> Iterator[_Block]:
        """All records but blank lines, some at once. lines: the first, with what ends them."""
        before = 0  # lines before these
        hidden = 0  # of these, from the first: their carriage returns are hidden
        read_again = 0  # characters
        width: int | None = None
        ended = False
        while lines:
            block, begin, window = _Block(), 0, len(lines)
            while begin < len(lines):
                end, taken, error = self._parse(lines[begin : begin + window], before + begin, block)
                begin, end, taken = begin + end, begin + end, begin + taken
                if error is None:
                    window *= 2
                    continue
                size = sum(map(len, lines[end:taken]))
                if error == _END and size <= _MOST_CHARACTERS:
                    if taken < len(lines):
                        window *= 2
                        continue
                    if not ended:
                        break  # more lines are to come
                if any(map(_LONE_RETURNS.search, lines[max(end, hidden) : taken])):
                    lines[hidden:] = list(map(_without_returns, lines[hidden:]))
                    hidden = len(lines)
                    continue
                window = _FEW_LINES
                read_again += size - len(lines[end])
                if read_again > _MOST_READ_AGAIN:
                    raise TextsError(
                        f"{self._opened.name}, line {before + end + 1}: too many quotes are not closed: give --quote "
                        "or --escape as they are, or --quote '' if it has none"
                    )
                fault = f"not {self._opened.format.upper()} ({error})"
                if taken - end > 1:
                    fault = f"a quote that it opens is not closed as one ({error})"
                if '\\"' in lines[end] and self._opened.dialect.escape is None:
                    fault += "; where a backslash escapes quotes, give --escape '\\'"
                block.begins.append(before + end + 1)
                block.ends.append(before + end + 1)
                block.values.append([lines[end].rstrip("\r\n")])
                block.faults.append(fault)
                begin += 1
            if block.values:
                if width is None:
                    block.keep(_from_first(block.values))
                    rows = zip(block.values, block.faults, strict=True)
                    width = next((len(value) for value, why in rows if value and not why), None)
                self._check_widths(block, width or 1, lines, before)
                if hidden:
                    block.values = [[text.replace(_STANDS_FOR_IT, "\r") for text in value] for value in block.values]
                yield block
            more = next(self._coming, None)
            ended = more is None
            lines, before, hidden = lines[begin:] + (more or []), before + begin, max(0, hidden - begin)

    def _parse(self, lines: list[str], before: int, block: _Block) -> tuple[int, int, str | None]:
        """Add records to a block, up to the first that is broken: where that begins and ends, and what is wrong.

        before: lines before these.
        """
        reader = csv.reader(lines, **self._form)
        first = last = before + 1
        fault = None
        try:
            for row in reader:
                first, last = last, before + 1 + reader.line_num
                block.begins.append(first)
                block.ends.append(last - 1)
                block.values.append(row)
        except csv.Error as error:
            fault = str(error)
        block.faults += [None] * (len(block.values) - len(block.faults))
        return last - before - 1, reader.line_num, fault

    def _check_widths(self, block: _Block, width: int, lines: list[str], before: int) -> None:
        """A record of another width than the header has is broken. A blank line is one if there is a single column."""
        if set(map(len, block.values)) == {width}:
            return
        if width > 1:
            block.keep([index for index, value in enumerate(block.values) if value])
        for index, (begin, end, value) in enumerate(zip(block.begins, block.ends, block.values, strict=True)):
            if not value:
                block.values[index] = [""]
            elif block.faults[index] is None and len(value) != width:
                count = f"{len(value)} column" if len(value) == 1 else f"{len(value)} columns"
                over = f" over {end - begin + 1} lines" if end > begin else ""
                block.faults[index] = f"it has {count}{over}, the header has {width}"
                block.values[index] = ["".join(lines[begin - before - 1 : end - before]).rstrip("\r\n")]


def _from_first(values: list[list[str]]) -> range:
    """All rows but the blank lines before the first."""
    return range(next((index for index, value in enumerate(values) if value), len(values)), len(values))


def _without_returns(line: str) -> str:
    return _LONE_RETURNS.sub(lambda found: len(found.group()) * _STANDS_FOR_IT, line)


def _delimiter(lines: Sequence[str]) -> str:
    """A comma, unless the header has none outside of quotes, and one of the others."""
    header = _QUOTED.sub("", next((line for line in lines if line.strip()), ""))
    others = [delimiter for delimiter in _DELIMITERS[1:] if delimiter in header]
    return others[0] if "," not in header and len(others) == 1 else ","
