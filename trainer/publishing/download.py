"""Files from a server, whole and verified: `download` resumes a cut transfer and trusts only git blob hashes."""

import errno
import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from model.checkpoints.untrusted import open_plain

OnProgress = Callable[[str, int, int | None], None]  # name of the work, done so far, total if known (bytes or texts)

_ATTEMPTS = 5  # for each file
_TIMEOUT_S = 30.0  # of a connection, and of silence on it
_CHUNK_BYTES = 1 << 18
_RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)


class FetchError(Exception):
    """Something published could not be fetched; the message says what failed and what to do."""


def blob_hash(path: Path) -> str:
    """The hash by which git names a file of this content: SHA-1 of "blob SIZE", a zero byte and the content.

    Raises OSError, also for a link.
    """
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open_plain(path) as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def verify_local(path: Path, blob: str) -> None:
    """Raise FetchError unless the file is there and has the git blob hash `blob`."""
    if not path.is_file():
        raise FetchError(f"{path} is missing: the mirror must hold every file of the release under the same path")
    try:
        found = blob_hash(path)
    except OSError as error:
        raise FetchError(f"{path} cannot be read: {error.strerror}") from error
    if found != blob:
        raise FetchError(f"{path} has git blob hash {found}, expected {blob}: replace it by the published file")


def download(url: str, path: Path, blob: str, limit: int, on_progress: OnProgress, backoff_s: float) -> None:
    """Fetch the file at `url` to `path` and verify it. Continues where an earlier call left `path` + ".partial"."""
    partial = path.with_name(path.name + ".partial")
    for there in (path, partial):
        if there.is_symlink() or (there.exists() and not there.is_file()):
            raise FetchError(f"{there} is not a plain file, so it is neither read nor written: delete it")
    if path.exists() and blob_hash(path) == blob:
        return
    with room(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(_ATTEMPTS):
        try:
            _continue(url, partial, blob, limit, on_progress)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in _RETRY_STATUS:
                advice = "name a --mirror that has it" if error.code in (404, 410) else "name another --mirror"
                raise FetchError(f"{url} was answered with {error.code} {error.reason}: {advice}") from error
            fault: Exception = error
        # A cut or silent connection, a name that does not resolve. Faults of the disk left `room` as FetchError.
        # ValueError: a redirect to something that is not a URL.
        except (OSError, ValueError, http.client.HTTPException) as error:
            fault = error
        if attempt + 1 == _ATTEMPTS:
            raise FetchError(
                f"{url} failed {_ATTEMPTS} times, last by {fault!r}. What has arrived is kept: run the command again "
                "to continue, or name a --mirror"
            ) from fault
        time.sleep(backoff_s * 2**attempt)
    found = blob_hash(partial)
    if found != blob:
        partial.unlink()
        raise FetchError(
            f"{url} has git blob hash {found}, expected {blob}: the file was deleted. Run the command again; if the "
            "hash is the same then, the server holds another file: name another --mirror"
        )
    partial.replace(path)


def _continue(url: str, partial: Path, blob: str, limit: int, on_progress: OnProgress) -> None:
    """One request for what `partial` lacks. Raises OSError or HTTPException if it ends early."""
    have = partial.stat().st_size if partial.exists() else 0
    # Identity: a byte range of a packed answer is not one of the file.
    headers = {"User-Agent": "sentiment-neuron", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        answer = _opener().open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S)  # noqa: S310, see _opener
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        if blob_hash(partial) != blob:  # not merely complete: longer than the file, or of another one
            partial.unlink()
            raise ConnectionError(f"the server has nothing after byte {have}: starting over") from error
        return
    with answer:
        begins_at = f"bytes {have}-"
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(begins_at)
        if answer.status == 206 and not resumed:
            partial.unlink(missing_ok=True)
            raise ConnectionError(f"asked for {begins_at}, got {answer.headers.get('Content-Range')!r}: starting over")
        have = have if resumed else 0  # a server that ignores Range sends the whole file
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and re.fullmatch("[0-9]{1,15}", length) else None
        with room(partial), partial.open("ab" if resumed else "wb") as stream:
            while chunk := answer.read(_CHUNK_BYTES):
                have += len(chunk)
                if have > limit:
                    raise FetchError(f"{url} sends more than {limit} bytes, more than the whole release: wrong server")
                stream.write(chunk)
                on_progress(PurePosixPath(url).name, have, total)
    if total is not None and have < total:
        raise ConnectionError(f"connection cut after {have} of {total} bytes")


def _opener() -> urllib.request.OpenerDirector:
    """Speaks http and https alone, also after a redirect: urllib's own would open file:, ftp: and data: as well."""
    opener, request = urllib.request.OpenerDirector(), urllib.request
    opener.add_handler(request.ProxyHandler())
    opener.add_handler(request.HTTPHandler())
    opener.add_handler(request.HTTPSHandler())
    opener.add_handler(request.HTTPErrorProcessor())
    opener.add_handler(request.HTTPDefaultErrorHandler())
    opener.add_handler(request.HTTPRedirectHandler())
    opener.add_handler(request.UnknownHandler())
    return opener


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Turn a full disk into a FetchError; anything else passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FetchError(
            f"no space left while writing {path}: make room and run the command again, what has arrived is kept"
        ) from error
