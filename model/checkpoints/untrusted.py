"""Reading files that anybody may have written: only plain files, no more bytes than expected, strict JSON.

A link may lead out of the directory that was named, a pipe may never deliver, and a device has no end.
"""

import errno
import json
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

# What the safetensors library raises for a damaged file, beside its own error: unknown types, shapes of more than 2^63.
NOT_SAFETENSORS = (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, AssertionError)

# Without O_NONBLOCK the opening of a pipe waits for its writer. Windows has only the last.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))

_TEXT = re.compile(r"[\t\n -~\xa0-\ud7ff\ue000-\U0010ffff]*")  # no control characters, no half of a surrogate pair
MAX_NUMBER = 1e30  # float32, in which the engine clamps a unit, ends at 3e38


def open_plain(path: Path) -> BufferedReader:
    """Open a file for reading. Raises OSError, also for a link and for anything but a regular file."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "its name has a zero byte", str(path))
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, only plain files are read", str(path))
    descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a plain file", str(path))
    return os.fdopen(descriptor, "rb")


def read_plain(path: Path, limit: int) -> bytes:
    """A file's content. Raises OSError as `open_plain`, and for one of more than `limit` bytes before it is read."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"it has {size} bytes, more than the {limit} allowed", str(path))
        return file.read(size)


def parse_json(content: bytes) -> Any:
    """Parse UTF-8. Raises ValueError, also for a key that comes twice, NaN, Infinity and what is nested too deep."""
    try:
        return json.loads(content.decode(), object_pairs_hook=_without_repeats, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def is_text(value: object) -> bool:
    """False also for control characters, which a terminal would obey, and for what UTF-8 cannot encode."""
    return isinstance(value, str) and bool(_TEXT.fullmatch(value))


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """False also for numbers so large that a sum of products of them is not finite."""
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


def require(condition: bool, message: str) -> None:
    """Raises ValueError."""
    if not condition:
        raise ValueError(message)


def brief(error: Exception) -> str:
    """An error's message, cut and escaped for a log line: it may quote a file at length, with control characters."""
    return str(error)[:300].encode("unicode_escape").decode()


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice in one object")
    return found


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is not a number in JSON")
