"""How a request gets its answer through a network that fails: repeats, waits, resumed streams. Clients send."""

import json
import random
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from sentiment_neuron.asks import Ask, failure
from sentiment_neuron.errors import NeuronError, ServiceError

Request = dict[str, Any]  # as httpx takes it: method, url, headers, content

# One answer is waited for so long, in seconds, and then asked for again: proxies cut silent connections.
WAIT_S = 25
_LONGEST_PAUSE_S = 5.0
# Worth a repeat: too slow a request, a full queue, and what a proxy or a gateway without Redis says. Of 504, a proxy's.
_PASSING = (408, 429, 502, 503)


class _Patience:
    """When to try again what failed, and when to give up: at `patience_s` since it last went well."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self.went_well()

    def went_well(self) -> None:
        self._until = time.monotonic() + self._patience_s
        self._pause_s = 0.05

    def pause_s(self, error: NeuronError, retry_after_s: float | None = None) -> float:
        """How long to pause before the next attempt. Raises the error if that would be too late."""
        apart = random.uniform(0.5, 1)  # noqa: S311 - so that clients that failed together do not return together
        pause = apart * self._pause_s if retry_after_s is None else retry_after_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if time.monotonic() + pause > self._until:
            raise error
        return pause

    def after_answer(self, status: int, headers: Mapping[str, str], content: bytes) -> float:
        """Raises the error if it is none that passes."""
        error = failure(status, content)
        if status in _PASSING or (status == 504 and isinstance(error, ServiceError)):
            after = headers.get("retry-after", "")
            return self.pause_s(error, float(after) if after.isdecimal() else None)
        raise error

    def after_break(self, error: Exception, url: str) -> float:
        unreachable = ServiceError("unreachable", None, f"no answer from {url}: {str(error) or type(error).__name__}")
        unreachable.__cause__ = error
        return self.pause_s(unreachable)


class Exchange:
    """One request with one answer, in `content` when it is there."""

    def __init__(self, ask: Ask[Any], patience_s: float) -> None:
        self.patience = _Patience(patience_s)
        self.content: bytes | None = None
        headers = {"Accept": ask.accept}
        if ask.body is not None:
            # However often it is sent, there is one job, and a repeat waits for that.
            headers |= {"Content-Type": "application/json", "Idempotency-Key": uuid4().hex, "Prefer": f"wait={WAIT_S}"}
        self.request: Request = {"method": ask.method, "url": ask.path, "headers": headers, "content": ask.body}

    def answered(self, status: int, headers: Mapping[str, str], content: bytes) -> float:
        """How long to pause before the request is sent again, if `content` is not there. Raises NeuronError."""
        if status >= 300:
            return self.patience.after_answer(status, headers, content)
        self.patience.went_well()
        if status != 202:  # then its job continues
            self.content = content
        return 0.0


class Streamed:
    """One generated text, by as many connections as it takes; `ended` when all of it has come."""

    def __init__(self, body: bytes, patience_s: float) -> None:
        self.patience = _Patience(patience_s)
        self.ended = False
        self.job: str | None = None  # its id, once an answer has named it
        self._body = body
        self._key = uuid4().hex
        self._last_id = ""
        self._event: dict[str, str] = {}

    @property
    def request(self) -> Request:
        """The first, or one that goes on where the last connection ended."""
        self._event = {}
        if self.job is not None:
            headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
            return {"method": "GET", "url": f"/jobs/{self.job}/events", "headers": headers}
        headers = {"Content-Type": "application/json", "Idempotency-Key": self._key}
        return {"method": "POST", "url": "/generate", "headers": headers, "content": self._body}

    def cancel(self) -> Request | None:
        """The request that ends its job, if that may still run."""
        return None if self.ended or self.job is None else {"method": "DELETE", "url": f"/jobs/{self.job}"}

    def line(self, line: str) -> str:
        """The text that a line of the answer completes, mostly none. Raises NeuronError where it says so."""
        name, _, value = line.partition(": ")
        if line:
            self._event[name] = value
            return ""
        event, self._event = self._event, {}
        if "data" not in event:
            return ""
        self.patience.went_well()
        self._last_id = event.get("id", self._last_id)
        if event["event"] == "token":
            return str(json.loads(event["data"])["text"])
        self.ended = True
        if event["event"] != "done":
            raise failure(500, event["data"].encode())
        return ""
