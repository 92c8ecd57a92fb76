"""Files that may be packed: `open_packed` reads plain, .gz, .xz and .zst; `UNREADABLE` is what reading may raise."""

import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import BinaryIO, cast

UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)
PACKED = (".gz", ".xz", ".zst")


def open_packed(path: Path, raw: BinaryIO | None = None) -> BinaryIO:
    """The unpacked bytes of a file, by its suffix.

    raw: the same file, opened by the caller, which closes it and finds in its position how much has been read.
    """
    match path.suffix.lower():
        case ".gz":
            return cast(BinaryIO, gzip.open(raw or path, "rb"))
        case ".xz":
            return cast(BinaryIO, lzma.open(raw or path, "rb"))
        case ".zst":
            import pyarrow as pa  # noqa: PLC0415 - optional: for .zst alone

            return cast(BinaryIO, io.BufferedReader(pa.input_stream(raw or str(path), compression="zstd")))
        case _:
            return raw or path.open("rb")
