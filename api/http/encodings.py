"""Content-Encoding of request bodies: gzip and zstd, unpacked to no more than a body may have."""

import gzip
import io
import sys
import zlib

from api.problems import Problem

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODINGS = ("gzip", "zstd")
# The most memory that a sender may ask for (RFC 9659): 8 MiB.
_ZSTD: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}


def unpack(encoding: str, body: bytes, limit: int) -> bytes:
    """The body that this holds; of a longer one its first `limit` + 1 bytes. Raises Problem.

    encoding: as the header says it.
    """
    coding = encoding.strip().lower().removeprefix("x-")
    if coding not in CODINGS:
        detail = f"the Content-Encoding is {encoding[:100]!r}: send one of {', '.join(CODINGS)}, or none"
        raise Problem("unknown-encoding", detail, {"Accept-Encoding": ", ".join(CODINGS)})
    source = io.BytesIO(body)
    try:
        with gzip.GzipFile(fileobj=source) if coding == "gzip" else zstd.ZstdFile(source, options=_ZSTD) as packed:
            return packed.read(limit + 1)
    except (OSError, EOFError, zlib.error, zstd.ZstdError) as error:
        raise Problem("invalid-request", f"the Content-Encoding is {coding}, and the body is not: {error}") from error
