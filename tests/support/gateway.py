"""The gateway in a thread of this process, served as its own process serves it, for tests that need no more of it.

A process would load all modules again. Metrics are those of this process: tests compare them with what they were.
"""

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from unittest import mock

import httpx
import uvicorn

from api.server import uvicorn_options
from api.settings import ApiSettings
from tests.conftest import wait_until


@contextlib.contextmanager
def gateway(redis_url: str, send_buffer: int | None = None, **settings: str) -> Iterator[str]:
    """Its address.

    send_buffer: bytes of an answer that the kernel keeps for a client that does not read; by default as many as it
    likes. settings: those that the environment of a process would hold.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEURON_")}
    with mock.patch.dict(os.environ, environment | {"NEURON_REDIS_URL": redis_url, **settings}, clear=True):
        server = uvicorn.Server(uvicorn.Config(**uvicorn_options(ApiSettings())))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        if send_buffer is not None:  # connections have what their listener has
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        thread = threading.Thread(target=server.run, args=([listening],), name="gateway")
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), what="the gateway")
            assert server.started
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def metric(url: str, name: str, headers: dict[str, str] | None = None) -> float:
    """A sample of the gateway's /metrics, name and labels as they are written there; 0 if it is not there yet."""
    page = httpx.get(f"{url}/metrics", headers=headers).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0
