"""Opens a file of texts: its bytes, unpacked, and its format (`open_file`, `open_stream`)."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import AnyStr, BinaryIO, cast

from texts.dialect import Dialect
from texts.faults import TextsError
from texts.formats import HEAD_BYTES, Format, Packing, format_of, packing_of

UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)

BLOCK_BYTES = 256 << 10  # larger ones are slower: their memory is new each time
MAX_RECORD_BYTES = 64 << 20  # a file without newlines is not a file of texts and must not fill the memory
_MARK = "\ufeff"


class Opened:
    """A file of texts, open. name: in messages. head: its first bytes, unpacked."""

    def __init__(self, name: str, stream: BinaryIO, head: bytes, kind: Format, dialect: Dialect, raw: BinaryIO) -> None:
        self.name = name
        self.head = head
        self.format = kind
        self.dialect = dialect
        self._stream = stream
        self._raw = raw

    def position(self) -> int:
        """Bytes of the file, as it is packed, that have been read."""
        return self._raw.tell()

    @property
    def size(self) -> int:
        """Bytes of the file, as it is packed."""
        return os.fstat(self._raw.fileno()).st_size

    @contextlib.contextmanager
    def seekable(self, spill: Path | None) -> Iterator[BinaryIO]:
        """The unpacked file, to be read in any order: unpacked to disk, in `spill` or where temporary files are."""
        if self._stream is self._raw and self._raw.seekable():
            self._raw.seek(0)
            yield self._raw
            return
        with TemporaryFile(dir=spill) as unpacked:
            unpacked.write(self.head)
            shutil.copyfileobj(self._stream, unpacked, BLOCK_BYTES)
            unpacked.seek(0)
            yield cast(BinaryIO, unpacked)

    def lines(self, ends: bool = False) -> Iterator[list[str]]:
        """The lines of text, as many at once as come together. ends: with what ends them.

        A line ends with a newline, which a carriage return may precede; with a carriage return alone where the
        beginning has no newline. Bytes that are not of the encoding stand as lone surrogates. Raises TextsError for a
        line of more than MAX_RECORD_BYTES characters.
        """
        blocks = self.blocks()
        first = next(blocks, "")
        for lines in _split(chain([first], blocks), _end_of_lines(first, "\r", "\n"), ends, self._too_long):
            yield lines if ends else [line.removesuffix("\r") for line in lines]

    def byte_lines(self) -> Iterator[list[bytes]]:
        """As `lines`, in UTF-8 that has not been checked, and with a carriage return that precedes a newline."""
        if self.dialect.encoding is not None:
            for lines in self.lines():
                yield [line.encode("utf-8", "surrogatepass") for line in lines]
            return
        blocks = self._raw_blocks()
        first = next(blocks, b"").removeprefix(_MARK.encode())
        yield from _split(chain([first], blocks), _end_of_lines(first, b"\r", b"\n"), False, self._too_long)

    def blocks(self) -> Iterator[str]:
        """The text in pieces, which end anywhere. Without a byte order mark."""
        decoder = codecs.getincrementaldecoder(self.dialect.encoding or "utf-8")("surrogateescape")
        blocks = map(decoder.decode, self._raw_blocks())
        lines = 0
        try:
            first = next(blocks, "").removeprefix(_MARK)
            for block in chain([first], blocks):
                lines += block.count("\n")
                yield block
            yield decoder.decode(b"", final=True)
        except UnicodeError as error:
            where = f"behind line {lines}" if lines else "at its beginning"
            raise TextsError(f"{self.name} is not {self.dialect.encoding}, {where}: {error}") from error

    def _raw_blocks(self) -> Iterator[bytes]:
        yield self.head
        read = getattr(self._stream, "read1", self._stream.read)  # what has come, so that a pipe is answered at once
        with readable(self.name):
            while block := read(BLOCK_BYTES):
                yield block

    def _too_long(self, number: int) -> TextsError:
        return TextsError(f"{self.name}, line {number}: it is longer than {MAX_RECORD_BYTES:,} characters")


def _end_of_lines(first: AnyStr, carriage_return: AnyStr, newline: AnyStr) -> AnyStr:
    return carriage_return if carriage_return in first and newline not in first else newline


def _split(
    blocks: Iterable[AnyStr], end: AnyStr, ends: bool, too_long: Callable[[int], TextsError]
) -> Iterator[list[AnyStr]]:
    """The lines of blocks that end anywhere. too_long: makes the error for a line, of its number."""
    rest: list[AnyStr] = []  # the beginning of a line, joined when its end has come
    size = number = 0
    nothing = end[:0]
    for block in blocks:
        lines: list[AnyStr] = block.split(end)
        if len(lines) > 1:
            rest.append(lines[0])
            lines[0] = nothing.join(rest)
            rest, size = [], 0
        rest.append(lines.pop())
        size += len(rest[-1])
        number += len(lines)
        if size > MAX_RECORD_BYTES:
            raise too_long(number + 1)
        if lines:
            yield [line + end for line in lines] if ends else lines
    if size:
        yield [nothing.join(rest)]


@contextlib.contextmanager
def open_file(path: Path, dialect: Dialect) -> Iterator[Opened]:
    """Raises TextsError if the file cannot be read, or is no file of texts."""
    with contextlib.ExitStack() as stack:
        with readable(str(path)):
            raw = stack.enter_context(path.open("rb"))
        yield stack.enter_context(open_stream(raw, str(path), dialect))


@contextlib.contextmanager
def open_stream(raw: BinaryIO, name: str, dialect: Dialect) -> Iterator[Opened]:
    """As `open_file`, of a stream, which may be a pipe."""
    with contextlib.ExitStack() as stack:
        with readable(name):
            stream, first = raw, _Ahead(raw)
            head, packing = first.head, packing_of(name, first.head)
            if packing is not None:
                stream = stack.enter_context(_unpacked(packing, first))
                head = stream.read(HEAD_BYTES)
        yield Opened(name, stream, head, format_of(name, head, dialect.format, dialect.encoding), dialect, raw)


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """What goes wrong while a file is read, in words."""
    try:
        yield
    except UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise TextsError(f"{name} cannot be read: {reason}") from error


class _Ahead(io.RawIOBase):
    """A stream whose first bytes have been looked at, and are read again."""

    def __init__(self, raw: BinaryIO) -> None:
        read = getattr(raw, "read1", raw.read)
        self.head = b""
        while not _tells(self.head) and len(self.head) < HEAD_BYTES and (block := read(HEAD_BYTES)):
            self.head += block
        self._raw = raw
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        block = self.head[self._given : self._given + len(buffer)]
        self._given += len(block)
        if not block:
            block = self._raw.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


def _tells(head: bytes) -> bool:
    """Whether there is enough to tell a file from another; a pipe may bring less.

    That is a line that is not blank, and of JSON that begins on it the next one, too.
    """
    lines = head.lstrip().split(b"\n")
    open_ended = lines[0].startswith((b"{", b"[")) and not lines[0].rstrip().endswith((b"}", b"]"))
    return len(lines) > 1 + open_ended


def _unpacked(packing: Packing, packed: io.RawIOBase) -> BinaryIO:
    return cast(BinaryIO, _UNPACK[packing.name](io.BufferedReader(packed, BLOCK_BYTES)))


def _zstd(packed: BinaryIO) -> BinaryIO:
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional: for Zstandard alone
    except ModuleNotFoundError as error:
        raise TextsError("Zstandard needs pyarrow: pip install pyarrow") from error
    return cast(BinaryIO, io.BufferedReader(pa.input_stream(packed, compression="zstd"), BLOCK_BYTES))


_UNPACK: dict[str, Callable[[BinaryIO], object]] = {
    "gzip": lambda packed: gzip.GzipFile(fileobj=packed, mode="rb"),
    "xz": lzma.LZMAFile,
    "bzip2": bz2.BZ2File,
    "Zstandard": _zstd,
}
