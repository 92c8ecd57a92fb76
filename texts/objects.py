"""JSON: an object a line, or objects one after another, or one array of them.

A line that is not JSON is left out, and the next one is read. In a document over several lines nothing tells where the
next object begins, so there a fault is the end of the file. Lines are parsed by orjson, which is strict; values over
several lines by Python's json, which says where a value ends.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from texts.faults import TextsError, quoted, shown
from texts.formats import is_one_document
from texts.opening import MAX_RECORD_BYTES, Opened
from texts.records import (
    CHUNK_CHARACTERS,
    CHUNK_RECORDS,
    NO_TEXT,
    TEXT,
    Chunk,
    Field,
    label_text,
    not_of_the_encoding,
)

_LOOKED_AT = 100  # records, for the fields that a file has
_BETWEEN = " \t\r\n,"
_DEPTH = 16  # of fields that are named
_CUT = 16  # characters: a fault that is further from the end of what was read does not go with more
_MISSING = object()


@dataclass(frozen=True)
class _Block:
    """Some records: lines that they begin on, objects (or what is none), and faults."""

    places: Sequence[int]
    values: list[Any]
    faults: list[str | None]


def _block(records: Sequence[tuple[int, Any, str | None]]) -> _Block:
    places, values, faults = zip(*records, strict=True)
    return _Block(places, list(values), list(faults))


class Objects:
    """The records of an open JSON file."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        head = opened.head.decode(opened.dialect.encoding or "utf-8", "replace")
        self._as_values = is_one_document(head)
        self._looked_at: list[_Block] = []
        self._coming = self._values() if self._as_values else self._lines()

    def fields(self) -> list[str]:
        """Keys of the first objects, with those of the objects within them after a dot."""
        found: dict[str, None] = {}
        for value in self._first():
            found |= dict.fromkeys(name for name, _ in _leaves(value))
        return list(found)

    def texts(self) -> list[str]:
        """Keys of the first objects whose values are strings."""
        found: dict[str, None] = {}
        for value in self._first():
            found |= dict.fromkeys(name for name, leaf in _leaves(value) if isinstance(leaf, str))
        return list(found)

    def position(self) -> int:
        return self._opened.position()

    def _first(self) -> list[dict[str, Any]]:
        while sum(len(block.values) for block in self._looked_at) < _LOOKED_AT:
            block = next(self._coming, None)
            if block is None:
                break
            self._looked_at.append(block)
        values = (value for block in self._looked_at for value in block.values)
        return [value for value in islice(values, _LOOKED_AT) if isinstance(value, dict)]

    def chunks(self, fields: Sequence[Field], whole: bool) -> Iterator[Chunk]:
        """An object without a field is a fault; a label that is not there is none."""
        guessed = next((field.name for field in fields if field.guessed), None)
        while block := self._looked_at.pop(0) if self._looked_at else next(self._coming, None):
            if guessed is not None:
                self._check_guess(guessed, block)
            yield self._chunk(block, fields)

    def _check_guess(self, name: str, block: _Block) -> None:
        """Raises TextsError where `text` first comes late, and another field was taken for it."""
        for place, value in zip(block.places, block.values, strict=True):
            if isinstance(value, dict) and TEXT in value:
                raise TextsError(
                    f"{self._opened.name}, line {place}: the first objects have {quoted(name)}, and this one has "
                    f"{TEXT!r}: say which holds the text with --text-field"
                )

    def _chunk(self, block: _Block, fields: Sequence[Field]) -> Chunk:
        if not any(block.faults):
            columns = [_column(block.values, field, self._as_values) for field in fields]
            found = [column for column in columns if column is not None]
            if len(found) == len(fields):
                return Chunk(block.places, found, block.faults, block.values)
        nothing = [None] * len(fields)
        rows: list[Sequence[str | None]] = []
        faults: list[str | None] = []
        for value, fault in zip(block.values, block.faults, strict=True):
            row, why = (nothing, fault) if fault else _row(value, fields)
            rows.append(nothing if why else row)
            faults.append(why)
        return Chunk(block.places, [[row[index] for row in rows] for index in range(len(fields))], faults, block.values)

    def _lines(self) -> Iterator[_Block]:
        """Every line but blank ones. orjson takes neither NaN nor what is not UTF-8."""
        import orjson  # noqa: PLC0415 - optional: for JSON alone

        number, encoding = 1, self._opened.dialect.encoding
        for lines in self._opened.byte_lines():
            places: Sequence[int] = range(number, number + len(lines))
            number += len(lines)
            values: list[Any] = []
            broken: dict[int, str] = {}
            coming = iter(lines)
            while len(values) < len(lines):
                try:
                    values.extend(map(orjson.loads, coming))
                except orjson.JSONDecodeError as error:  # those before it are there
                    line = lines[len(values)].decode("utf-8", "surrogatepass" if encoding else "surrogateescape")
                    reason = not_of_the_encoding(line, encoding)
                    broken[len(values)] = reason or f"not JSON ({error.msg} at column {error.colno})"
                    values.append(line)
            if broken or set(map(type, values)) != {dict}:
                found = [
                    (place, value, broken.get(index) or _no_object(value))
                    for index, (place, value) in enumerate(zip(places, values, strict=True))
                    if index not in broken or value.strip()
                ]
                if found:
                    yield _block(found)
            elif values:
                yield _Block(places, values, [None] * len(values))

    def _values(self) -> Iterator[_Block]:
        """Objects one after another or in an array. Raises TextsError where they end before the file does."""
        found: list[tuple[int, Any, str | None]] = []
        characters = 0
        for place, value, fault, length in self._documents():
            found.append((place, value, fault))
            characters += length
            if len(found) >= CHUNK_RECORDS or characters >= CHUNK_CHARACTERS:
                yield _block(found)
                found, characters = [], 0
        if found:
            yield _block(found)

    def _documents(self) -> Iterator[tuple[int, Any, str | None, int]]:
        """Line, value, fault and characters of each."""
        decoder = json.JSONDecoder(parse_constant=_refuse)
        text, place, number, ended = "", 0, 1, False
        blocks = self._opened.blocks()
        opened = closed = False
        while True:
            while place < len(text) and text[place] in _BETWEEN:
                number += text[place] == "\n"
                place += 1
            if place < len(text) and text[place] in "[]":
                if (text[place] == "[") == opened or closed:
                    raise self._broken(number, f"{text[place]!r} is not expected")
                opened, closed = True, text[place] == "]"
                place += 1
                continue
            try:
                if place == len(text):
                    raise json.JSONDecodeError("the end", text, place)
                if closed:
                    raise self._broken(number, "the array has ended")
                value, end = decoder.raw_decode(text, place)
            except (json.JSONDecodeError, RecursionError) as error:
                if ended or not _may_go_on(error, text):
                    if place == len(text) and opened == closed:
                        return
                    raise self._broken(number, f"not JSON ({getattr(error, 'msg', error)})") from error
                if len(text) - place > MAX_RECORD_BYTES:
                    raise self._broken(number, f"it is longer than {MAX_RECORD_BYTES:,} characters") from error
                # Twice as much each time, so that a long value is not begun again at every block.
                more, wanted = [text[place:]], 2 * (len(text) - place)
                while sum(map(len, more)) <= wanted and not ended:
                    block = next(blocks, None)
                    ended = block is None
                    more.append(block or "")
                text, place = "".join(more), 0
                continue
            except ValueError as error:
                raise self._broken(number, str(error)) from error
            fault = _no_object(value) or not_of_the_encoding(text[place:end], self._opened.dialect.encoding)
            yield number, value, fault, end - place
            number += text.count("\n", place, end)
            place = end

    def _broken(self, number: int, reason: str) -> TextsError:
        return TextsError(f"{self._opened.name}, line {number}: {reason}; what follows cannot be read")


def _column(values: list[dict[str, Any]], field: Field, escaped: bool) -> list[str | None] | None:
    """A field of many objects at once; None where one of them needs a look of its own.

    escaped: whether lone surrogates may stand in them, as Python's json takes them and orjson does not.
    """
    try:
        found = [value[field.name] for value in values]
        kinds = set(map(type, found))
        if field.kind == "label" and kinds != {str}:
            found = [label_text(value) for value in found]
        elif kinds != {str}:
            return None
    except (KeyError, TypeError):
        return None
    return None if escaped and not_of_the_encoding("".join(map(str, found)), None) else found


def _may_go_on(error: json.JSONDecodeError | RecursionError, text: str) -> bool:
    """Whether a value may be whole once more has been read."""
    if isinstance(error, RecursionError):
        return False
    return error.pos >= len(text) - _CUT or error.msg.startswith("Unterminated")


def _no_object(value: object) -> str | None:
    return None if isinstance(value, dict) else f"not an object but {_kind(value)}"


def _row(value: dict[str, Any], fields: Sequence[Field]) -> tuple[list[str | None], str | None]:
    """The wanted fields of an object, and why they cannot be read."""
    row: list[str | None] = []
    for field in fields:
        found = value.get(field.name, _MISSING)
        if found is _MISSING:
            found = _pick(value, field.name)
        if field.kind == "text":
            if isinstance(found, str):
                row.append(found)
                continue
            if found is _MISSING:
                return [], f"no field {quoted(field.name)}; there are: {shown(name for name, _ in _leaves(value))}"
            return [], NO_TEXT if found is None else f"field {quoted(field.name)} is {_kind(found)}, not a string"
        try:
            row.append(None if found is _MISSING else label_text(found))
        except TypeError:
            return [], f"label {quoted(field.name)} is {_kind(found)}"
    # A \ud800 of Python's json; orjson takes none.
    fault = next((why for text in row if text and (why := not_of_the_encoding(text, None))), None)
    return row, fault


def _pick(value: object, name: str) -> object:
    """A field by its name, or by its way through objects; _MISSING if there is none."""
    if not isinstance(value, dict):
        return _MISSING
    if name in value:
        return value[name]
    first, dot, rest = name.partition(".")
    while dot:
        if first in value and (found := _pick(value[first], rest)) is not _MISSING:
            return found
        more, dot, rest = rest.partition(".")
        first = f"{first}.{more}"
    return _MISSING


def _leaves(value: dict[str, Any], before: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Fields that are no objects, by their way through objects; deep ones as they are."""
    for key, inner in value.items():
        if isinstance(inner, dict) and depth < _DEPTH:
            yield from _leaves(inner, f"{before}{key}.", depth + 1)
        else:
            yield before + key, inner


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
