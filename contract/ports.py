"""Whether a server can listen where its settings say: `check_port`."""

import socket

from contract.settings import SettingError


def check_port(host: str, port: int, setting: str) -> None:
    """Raise SettingError if nobody can listen on `port` of `host` now. setting: the one that names the port."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
                if family == socket.AF_INET6:
                    tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                tried.bind(address)
    except OSError as error:
        where = host or "this machine"
        raise SettingError(f"{setting} is {port}, where {where} cannot listen: {error.strerror}") from error
