"""Connections, bounded where uvicorn leaves them open: a request's head in bytes, and in time both ways.

Bodies are bounded in bytes by middleware.BodyLimit, which can name the limit; here is what no application sees.
"""

import asyncio
import json
import logging
import sys
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api import metrics, problems
from api.problems import Problem

log = logging.getLogger(__name__)

# On every answer, uvicorn's own too. Answers are results or tell of jobs, so none is stored.
HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
]


class _HeaderTooLarge(Exception):
    """Ends the parsing of a request whose head is over the limit."""


class Connection(HttpToolsProtocol):
    """Takes heads of so many bytes at most.

    Closes where a whole request has not come within so long, or an answer has not been read on for so long.
    """

    def __init__(self, *arguments: Any, max_header_bytes: int, timeout_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._max_header_bytes = max_header_bytes
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._in_head = True
        self._head_bytes = 0  # of the reads that did not end the head
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
        """End a connection whose client does not read its answer; its request then ends as for one that has gone."""
        metrics.DROPPED.inc()
        log.info("a client had not read its answer for %g s (setting NEURON_API_REQUEST_TIMEOUT_S)", self._timeout_s)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._ended = False
        super().data_received(data)
        if self._ended:  # most requests come in one read
            self._stop_timer()
        elif self._timer is None and not self.transport.is_closing():
            self._start_timer()
        if self._in_head:
            # The parser tells of a value when it has all of it, so what was read is what is bounded.
            self._head_bytes += len(data)
            if self._head_bytes > self._max_header_bytes and not self.transport.is_closing():
                self._refuse(self._header_too_large())

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # A trailer is no header: it comes when the request has been judged by its head.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self._max_header_bytes:
            raise _HeaderTooLarge
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._ended = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        # The parser does not pass on what was raised within it, but keeps it as the context.
        error = sys.exception()
        if error is not None and isinstance(error.__context__, _HeaderTooLarge):
            self._refuse(self._header_too_large())
        else:
            self._refuse(Problem("bad-request", "this is no HTTP that can be read"))

    def _header_too_large(self) -> Problem:
        metrics.REFUSED.labels("head-too-large").inc()
        limit, setting = self._max_header_bytes, "NEURON_API_MAX_HEADER_BYTES"
        detail = f"the request's line and headers are over the limit of {limit:,} bytes (setting {setting})"
        return Problem("head-too-large", detail, limit=limit, setting=setting)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self._timeout_s, self._time_over)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_over(self) -> None:
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        nothing_came = cycle is None and self._in_head and not self._head_bytes
        if answering and not cycle.more_body:
            self._start_timer()  # the next request, sent ahead, waits for this one's answer
        elif nothing_came or (answering and cycle.response_started):
            self.transport.close()
        else:
            metrics.REFUSED.labels("too-slow").inc()
            limit, setting = self._timeout_s, "NEURON_API_REQUEST_TIMEOUT_S"
            detail = f"the request had not come within {limit:g} s (setting {setting})"
            self._refuse(Problem("too-slow", detail, limit=limit, setting=setting))

    def _refuse(self, problem: Problem) -> None:
        """Answer without the application, and close."""
        content = json.dumps(problem.document).encode()
        lines = [STATUS_LINE[problem.status_code].removesuffix(b"\r\n")]
        lines += [name + b": " + value for name, value in self.server_state.default_headers]
        lines += [b"content-type: " + problems.MEDIA_TYPE.encode(), b"content-length: %d" % len(content)]
        self.transport.write(b"\r\n".join([*lines, b"connection: close", b"", content]))
        self.transport.close()
