"""Whether a server can listen where its settings say: `check_port`."""

import errno
import socket

from contract.setting_error import SettingError


def check_port(host: str, port: int, setting: str, family: int = socket.AF_UNSPEC) -> None:
    """Raise SettingError if nobody can listen on `port` of `host` now.

    setting: the one that names the port; that of the host is called alike. family: of the addresses that the server
    listens on. As servers do, an address of a name that this machine lacks is left out if there is another.
    """
    where = host or "this machine"
    try:
        flags = socket.AI_PASSIVE
        found = socket.getaddrinfo(host or None, port, family, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as error:
        raise SettingError(f"{setting.removesuffix('PORT')}HOST is {host}: {error.strerror}") from error
    lacking: OSError | None = None
    listening = False
    for kind, _, protocol, _, address in found:
        try:
            with socket.socket(kind, socket.SOCK_STREAM, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if kind == socket.AF_INET6:
                    tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                tried.bind(address)
                listening = True
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
                raise SettingError(f"{setting} is {port}, where {where} cannot listen: {error.strerror}") from error
            lacking = error
    if not listening and lacking is not None:
        raise SettingError(f"{setting} is {port}, where {where} cannot listen: {lacking.strerror}") from lacking
