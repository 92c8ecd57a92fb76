"""Files that may be packed: `open_packed` reads plain, .gz and .xz; `UNREADABLE` is what reading may raise."""

import gzip
import lzma
import zlib
from pathlib import Path
from typing import BinaryIO, cast

UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)


def open_packed(path: Path) -> BinaryIO:
    """The unpacked bytes of a file, by its suffix."""
    match path.suffix.lower():
        case ".gz":
            return cast(BinaryIO, gzip.open(path, "rb"))
        case ".xz":
            return cast(BinaryIO, lzma.open(path, "rb"))
        case _:
            return path.open("rb")
