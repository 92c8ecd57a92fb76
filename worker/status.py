"""A worker's status over HTTP: `/metrics`, `/healthz` for a supervisor, `/readyz` for callers that wait for it."""

import threading
from collections.abc import Iterable
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from contract.jobs import WorkerStatus


class Worker(Protocol):
    """What the status is made of."""

    @property
    def moves(self) -> bool: ...

    def status(self) -> WorkerStatus: ...


class _Quiet(WSGIRequestHandler):
    timeout = 10  # seconds for a request; a client that sends none would keep its thread

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing: a probe every few seconds would fill the log."""


def serve(host: str, port: int, worker: Worker) -> int:
    """Answer until the process ends; returns the port. Raises OSError if it is taken.

    `/healthz` is 503 when the engine has hung, so that a supervisor may kill the process; `/readyz` also while the
    worker stops.
    """
    metrics = make_wsgi_app()

    def answer(environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        match environment["PATH_INFO"]:
            case "/healthz":
                well = worker.moves
            case "/readyz":
                well = worker.status().ready
            case "/metrics":
                page: Iterable[bytes] = metrics(environment, start_response)
                return page
            case _:
                start_response("404 Not Found", [("Content-Type", "text/plain")])
                return [b"there are /metrics, /healthz and /readyz\n"]
        start_response("200 OK" if well else "503 Service Unavailable", [("Content-Type", "application/json")])
        return [worker.status().model_dump_json().encode()]

    server = make_server(host, port, answer, ThreadingWSGIServer, _Quiet)
    threading.Thread(target=server.serve_forever, name="status", daemon=True).start()
    return server.server_port
