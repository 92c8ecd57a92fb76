"""Connections, with the limits that uvicorn lacks: bytes of a request's header section, and time both ways.

Here is what no application sees; `middleware.py` bounds the bytes of bodies.
"""

import asyncio
import json
import logging
import sys
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api import metrics, problems
from api.http.cors import Cors
from api.problems import Problem

log = logging.getLogger(__name__)

# On every answer, uvicorn's own too. Answers are results, or name jobs, so none may be stored.
HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
]


# A request that brings so much within its time gets as much time again: a file may take minutes.
_PROGRESS_BYTES = 2**20


class _HeaderTooLarge(Exception):
    """Ends the parsing of a request whose header section is over the limit."""


class Connection(HttpToolsProtocol):
    """Refuses a request line and header section of more than `max_header_bytes`.

    Closes when neither a whole request nor _PROGRESS_BYTES of its body have come within `timeout_s`, or the client has
    not read on for as long.
    """

    def __init__(
        self, *arguments: Any, max_header_bytes: int, timeout_s: float, cors: Cors | None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._max_header_bytes = max_header_bytes
        self._timeout_s = timeout_s
        self._cors = cors
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._came = 0  # bytes since the timer was started
        self._in_header = True
        self._header_bytes = 0  # of the reads that did not end the header section
        self._ended = False  # whether the last read ended a request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self._timeout_s, self._drop)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def _drop(self) -> None:
        """End a connection whose client does not read its answer. The request ends as if the client had gone."""
        metrics.DROPPED.inc()
        log.info("a client had not read its answer for %g s (setting NEURON_API_REQUEST_TIMEOUT_S)", self._timeout_s)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._ended = False
        self._came += len(data)
        super().data_received(data)
        if self._ended:  # most requests come in one read
            self._stop_timer()
        elif self._timer is None and not self.transport.is_closing():
            self._start_timer()
        if self._in_header:
            # The parser reports a header when it has all of it, so the limit is on the bytes that were read.
            self._header_bytes += len(data)
            if self._header_bytes > self._max_header_bytes and not self.transport.is_closing():
                self._refuse(self._header_too_large())

    def on_message_begin(self) -> None:
        self._in_header, self._header_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # A trailer is ignored: it comes when the request has been judged by its headers.
        if self._in_header:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self._max_header_bytes:
            raise _HeaderTooLarge
        self._in_header = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._ended = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        # The parser does not pass on an exception that was raised within it, but keeps it as the context.
        error = sys.exception()
        if error is not None and isinstance(error.__context__, _HeaderTooLarge):
            self._refuse(self._header_too_large())
        else:
            self._refuse(Problem("bad-request", "this is not HTTP that can be parsed"))

    def _header_too_large(self) -> Problem:
        limit, setting = self._max_header_bytes, "NEURON_API_MAX_HEADER_BYTES"
        detail = f"the request's line and header section are over the limit of {limit:,} bytes (setting {setting})"
        return Problem("head-too-large", detail, limit=limit, setting=setting)

    def _start_timer(self) -> None:
        self._came = 0
        self._timer = self.loop.call_later(self._timeout_s, self._time_over)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_over(self) -> None:
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        nothing_came = cycle is None and self._in_header and not self._header_bytes
        if answering and not cycle.more_body:
            self._start_timer()  # the next request, sent ahead, waits for this one's answer
        elif answering and self._came >= _PROGRESS_BYTES:
            self._start_timer()  # a large body over a line that is not fast
        elif nothing_came or (answering and cycle.response_started):
            self.transport.close()
        else:
            limit, setting = self._timeout_s, "NEURON_API_REQUEST_TIMEOUT_S"
            detail = f"the request had not come within {limit:g} s (setting {setting})"
            self._refuse(Problem("too-slow", detail, limit=limit, setting=setting))

    def _refuse(self, problem: Problem) -> None:
        """Answer without the application, and close."""
        problems.count(problem)
        content = json.dumps(problem.document).encode()
        lines = [STATUS_LINE[problem.status_code].removesuffix(b"\r\n")]
        lines += [name + b": " + value for name, value in self.server_state.default_headers]
        if self._cors is not None:
            origin = dict(self.headers or []).get(b"origin")
            cors = self._cors.headers(None if origin is None else origin.decode("latin-1"))
            lines += [f"{name}: {value}".encode("latin-1") for name, value in cors]
        lines += [b"content-type: " + problems.MEDIA_TYPE.encode(), b"content-length: %d" % len(content)]
        self.transport.write(b"\r\n".join([*lines, b"connection: close", b"", content]))
        self.transport.close()
