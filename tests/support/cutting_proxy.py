"""A TCP proxy that cuts connections: the network between a client and a gateway on a bad day."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class CuttingProxy:
    """Listens on loopback and passes bytes on. cuts: of each next connection, the bytes of its answers let through."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.cuts: list[int] = []
        self.connections = 0
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._server]
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                left = self.cuts.pop(0) if self.cuts else None
                for source, sink, limit in ((client, server, None), (server, client, left)):
                    threading.Thread(target=_pass_on, args=(source, sink, limit), daemon=True).start()

    def close(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _pass_on(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
    with suppress(OSError):
        while data := source.recv(4096 if limit is None else min(4096, limit)):
            sink.sendall(data)
            if limit is not None:
                limit -= len(data)
                if limit == 0:
                    break
    for one in (source, sink):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting_proxy(host: str, port: int) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy((host, port))
    try:
        yield proxy
    finally:
        proxy.close()
