"""Some records of a file (`Chunk`), the fields that are wanted of them (`Field`), and what values these may have."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

CHUNK_RECORDS = 8192
CHUNK_CHARACTERS = 4 << 20

NO_TEXT = "the text is null"
TEXT = "text"  # the column of a file of text, and the one that is taken where there are several
LABEL = "label"  # the field of the labels, unless another is named

_NO_LABEL = ("", "nan", "null", "none")
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?")


@dataclass(frozen=True)
class Field:
    """name: of a column or key; `review.text` is the key `text` within `review`, unless a key is called so.

    kind: a text must be a string; a label is a string, a number or a truth value, or null where there is none. guessed:
    whether nobody named it, and the first records alone say that it is the one.
    """

    name: str
    kind: Literal["text", "label"]
    guessed: bool = False


@dataclass(frozen=True)
class Chunk:
    """Records in their order.

    places: (records,) the line that each begins on or, in Parquet and Arrow, its row; from 1. columns: (records,) for
    each wanted field. faults: (records,) why a record cannot be read; None where it can. values: the records as they
    are: strings of text, lists of fields of CSV, objects of JSON; a pyarrow.RecordBatch of Parquet and Arrow.
    """

    places: Sequence[int]
    columns: list[list[str | None]]
    faults: list[str | None]
    values: Any

    def __len__(self) -> int:
        return len(self.faults)


def label_text(value: object) -> str | None:
    """A label as it is compared: whole numbers without a point, null as None. Raises TypeError for what is none."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value != value:
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int):
        return str(value)
    raise TypeError


def label_number(label: str) -> float | None:
    """A label that is a number, such as a count of stars; None for a name."""
    return float(label) if _NUMBER.fullmatch(label) else None


def is_label(label: str) -> bool:
    """Whether it is one; as text, other programs write a missing one so too."""
    return label.strip().lower() not in _NO_LABEL


def not_of_the_encoding(text: str, encoding: str | None) -> str | None:
    """Why a text cannot be one; None if it can. Bytes that could not be decoded stand in it as lone surrogates."""
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if not 0xDC80 <= code <= 0xDCFF:
            return f"it has a lone surrogate (U+{code:04X}), which is no character"
        byte = bytes([code - 0xDC00])
        if encoding is not None:
            return f"not {encoding} (byte 0x{byte.hex()})"
        return f"not UTF-8 (byte 0x{byte.hex()}){_hint(byte)}"
    return None


def _hint(byte: bytes) -> str:
    try:
        character = byte.decode("cp1252")
    except UnicodeDecodeError:
        return ""
    return f": if it is {character!r} of Windows-1252, give --encoding cp1252"
