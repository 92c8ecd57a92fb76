"""The formats and packings of files of texts, and how those of a file are recognized: `packing_of`, `format_of`.

A file is what its content says where that is certain (gzip, Parquet ...), otherwise what its name says. Text in no
known format, archives, other encodings than the one asked for and binary files are refused by name of what they are.
"""

import json
import re
from dataclasses import dataclass
from typing import Literal

from texts.faults import TextsError

Format = Literal["text", "csv", "tsv", "json", "parquet", "arrow"]

HEAD_BYTES = 1 << 16  # of a file, by which it is recognized


@dataclass(frozen=True)
class Known:
    """A format. what: in words, for the manual."""

    name: Format
    suffixes: tuple[str, ...]
    what: str


@dataclass(frozen=True)
class Packing:
    """magic: a pattern of the first bytes."""

    name: str
    suffixes: tuple[str, ...]
    magic: re.Pattern[bytes]
    what: str


FORMATS = (
    Known("text", (".txt", ".text"), "a text a line"),
    Known("csv", (".csv",), "comma-separated, a header, quotes doubled; semicolons or tabs where the header has those"),
    Known("tsv", (".tsv", ".tab"), "tab-separated, a header; a quote is a character like any other (IANA)"),
    Known(
        "json",
        (".jsonl", ".ndjson", ".json"),
        "an object a line; or objects over several lines, one after another; or one array of them",
    ),
    Known("parquet", (".parquet", ".pq"), "Parquet, with strings of any kind, dictionaries and nested structs"),
    Known("arrow", (".arrow", ".feather", ".ipc", ".arrows"), "Arrow IPC, a file or a stream"),
)
PACKINGS = (
    Packing("gzip", (".gz", ".gzip"), re.compile(rb"\x1f\x8b"), "gzip, of one member or several"),
    Packing("xz", (".xz",), re.compile(rb"\xfd7zXZ\0"), "xz, of one stream or several"),
    Packing("bzip2", (".bz2",), re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2, of one stream or several"),
    Packing(
        "Zstandard",
        (".zst", ".zstd"),
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
        "Zstandard, of one frame or several",
    ),
)

_BY_SUFFIX = {suffix: known.name for known in FORMATS for suffix in known.suffixes}
_BINARY = rb"(?s:(?=.{0,64}[\x00-\x08\x0e-\x1a]))"  # texts may begin with the letters of a magic number
_BY_MAGIC: tuple[tuple[re.Pattern[bytes], Format], ...] = (
    (re.compile(rb"PAR1" + _BINARY), "parquet"),
    (re.compile(rb"ARROW1\0\0"), "arrow"),
    (re.compile(rb"\xff\xff\xff\xff"), "arrow"),
)

# What is no file of texts, by its first bytes; and what to do.
_UNPACK = "unpack it and name the files in it"
_REFUSED = (
    (
        re.compile(rb"PK(\x03\x04|\x05\x06)"),
        "a ZIP archive, as Office documents are as well",
        f"{_UNPACK}, or save it as CSV",
    ),
    (re.compile(rb".{257}ustar", re.DOTALL), "a tar archive", _UNPACK),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7-Zip archive", _UNPACK),
    (re.compile(rb"Rar!\x1a\x07"), "a RAR archive", _UNPACK),
    (re.compile(rb"\xd0\xcf\x11\xe0"), "an old Office document", "save it as CSV (UTF-8)"),
    (re.compile(rb"%PDF-"), "a PDF document", "save its text as .txt"),
    (re.compile(rb"SQLite format 3\0"), "an SQLite database", "export a table as CSV"),
    (re.compile(rb"\x89HDF"), "an HDF5 file", "export a table as Parquet"),
    (re.compile(rb"\x93NUMPY"), "a NumPy array", "save its texts as .txt"),
    (re.compile(rb"Obj\x01"), "an Avro file", "export it as Parquet"),
    (re.compile(rb"ORC" + _BINARY), "an ORC file", "export it as Parquet"),
    (re.compile(rb"FEA1" + _BINARY), "a Feather file of version 1", "write it again as version 2"),
    (re.compile(rb"\x04\x22\x4d\x18"), "packed by LZ4", "pack it as .zst or .gz"),
)
_ENCODINGS = (
    (re.compile(rb"\xff\xfe\0\0|\0\0\xfe\xff"), "UTF-32"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16"),
)
_FEW_NULS = 8
_LINES_LOOKED_AT = 20
_SPACES = b"\xef\xbb\xbf \t\r\n"
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\x08\x0b\x0c\x1b\0"))


def packing_named(name: str) -> Packing | None:
    """How a file is packed, by its name."""
    return next((packing for packing in PACKINGS if name.lower().endswith(packing.suffixes)), None)


def packing_of(name: str, head: bytes) -> Packing | None:
    """How a file is packed; None if it is not. Raises TextsError where its name and its content differ."""
    named = packing_named(name)
    found = next((packing for packing in PACKINGS if packing.magic.match(head)), None)
    if named is not None and found is not named and head:
        raise TextsError(f"{name} cannot be read: it is not {named.name}, as its name says")
    return found


def format_of(name: str, head: bytes, given: Format | None, encoding: str | None) -> Format:
    """head: its first bytes, unpacked. given, encoding: by the user, or None. Raises TextsError."""
    for pattern, what, advice in _REFUSED:
        if pattern.match(head):
            raise TextsError(f"{name} is {what}: {advice}")
    for magic, found in _BY_MAGIC:
        if magic.match(head):
            if given is not None and given != found:
                raise TextsError(f"{name} is {found}, not {given} (--format)")
            return found
    if encoding is None:
        _check_text(name, head)
    found_by_name = given or _BY_SUFFIX.get(suffix_of(name))
    if found_by_name in ("parquet", "arrow") and head:
        raise TextsError(f"{name} cannot be read: it is not {found_by_name}")
    if found_by_name is not None:
        return found_by_name
    if head.lstrip(_SPACES)[:1] in (b"{", b"["):
        return "json"
    known = ", ".join(suffix for known in FORMATS for suffix in known.suffixes)
    raise TextsError(f"{name}: its name does not say what it is: give --format, or a name that ends in {known}")


def place(kind: Format, number: int) -> str:
    """Where a record is, in words."""
    return f"{'row' if kind in ('parquet', 'arrow') else 'line'} {number}"


def suffix_of(name: str) -> str:
    """The suffix that names the format, in lower case: `.csv` of `a.CSV.gz`."""
    name = name.lower()
    for packing in PACKINGS:
        for suffix in packing.suffixes:
            name = name.removesuffix(suffix)
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix}" if dot and "/" not in suffix and stem else ""


def is_one_document(head: str) -> bool:
    """Whether JSON is read value by value, as an array or objects over several lines are, instead of line by line."""
    lines = [line for line in head.removeprefix("\ufeff").split("\n")[:_LINES_LOOKED_AT] if line.strip()]
    first, second = (*lines, "", "")[:2]
    if first.lstrip().startswith("["):
        array = _value(first)
        return not (isinstance(array, list) and not any(isinstance(value, dict) for value in array) and second)
    pretty = first.lstrip().startswith("{") and not first.rstrip().endswith("}")
    return bool(pretty and second and not isinstance(_value(second), dict))


def _value(line: str) -> object:
    """Of a line that is one in JSON; None otherwise."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _check_text(name: str, head: bytes) -> None:
    """Refuse what is not text in UTF-8, nor in another encoding without NULs."""
    found = next((encoding for magic, encoding in _ENCODINGS if magic.match(head)), None)
    nuls = head.count(0)
    if found is None and nuls > max(_FEW_NULS, len(head) // 100):
        quarters = sorted(head[place::4].count(0) / max(1, len(head[place::4])) for place in range(4))
        if quarters[1] > 0.9:
            found = "UTF-32"
        elif quarters[2] > 0.7 and quarters[1] < 0.3:
            found = "UTF-16"
        else:
            raise TextsError(f"{name} is binary, not text: {nuls:,} of its first {len(head):,} bytes are NUL")
    if found is not None:
        advice = f"save it as UTF-8, or give --encoding {found.lower()}"
        raise TextsError(f"{name} is {found}: {advice}")
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if controls > max(_FEW_NULS, len(head) // 10):
        raise TextsError(f"{name} is binary, not text: {controls:,} of its first {len(head):,} bytes are control codes")
