"""How `NEURON_REDIS_URL` says where Redis is: by TCP, TLS, a Unix socket, or Sentinels.

Sentinels: `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/DB?master=NAME`. User and password are those of Redis;
the query may name `sentinel_username` and `sentinel_password`, those of the Sentinels.
"""

import re
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from pydantic import AfterValidator, AnyUrl, RedisDsn, UrlConstraints
from pydantic_core import MultiHostUrl

_SOCKET_SCHEMES = ("unix", "redis+socket")
_SENTINEL_PORT = 26_379
_QUERY = ("master", "sentinel_username", "sentinel_password")


def _checked(url: MultiHostUrl) -> MultiHostUrl:
    query = dict(url.query_params())
    if not query.get("master"):
        raise ValueError("which master of the Sentinels? Add `?master=NAME`")
    if unknown := query.keys() - set(_QUERY):
        raise ValueError(f"{min(unknown)} is not known beside {', '.join(_QUERY)}")
    if not re.fullmatch("(/[0-9]*)?", url.path or ""):
        raise ValueError("behind the Sentinels stands the number of the database")
    return url


_Socket = Annotated[AnyUrl, UrlConstraints(allowed_schemes=list(_SOCKET_SCHEMES))]
_Sentinels = Annotated[
    MultiHostUrl, UrlConstraints(allowed_schemes=["redis+sentinel"], host_required=True), AfterValidator(_checked)
]
RedisUrl = _Socket | _Sentinels | RedisDsn


def broker(url: RedisUrl) -> tuple[str, dict[str, Any]]:
    """(URL, transport options) as Celery takes them."""
    if isinstance(url, MultiHostUrl):
        of_redis = master_options(url)
        user, password = (quote(str(of_redis.get(name, "")), safe="") for name in ("username", "password"))
        key = f"{user}:{password}@" if password else ""
        where = ((f"[{host}]" if ":" in host else host, port) for host, port in sentinel_hosts(url))
        hosts = (f"sentinel://{key}{host}:{port}/{of_redis['db']}" for host, port in where)
        return ";".join(hosts), {"master_name": master(url), "sentinel_kwargs": sentinel_options(url, {})}
    if (socket := _socket(url)) is None:
        return str(url), {}
    place, options = socket
    user, password = (quote(options.get(name, ""), safe="") for name in ("username", "password"))
    return f"redis+socket://{f'{user}:{password}@' if password else ''}{place}?virtual_host={options['db']}", {}


def masked(url: RedisUrl) -> str:
    """For logs, without passwords."""
    shown = re.sub("(?<=[?&]password=)[^&]*|(?<=[?&]sentinel_password=)[^&]*", "***", str(url))
    passwords = [host["password"] for host in url.hosts()] if isinstance(url, MultiHostUrl) else [url.password]
    for password in filter(None, passwords):
        shown = shown.replace(password, "***")
    return shown


def of_client(url: AnyUrl | RedisDsn) -> str:
    """As redis-py takes it: `unix:///path?db=0&password=...` for a Unix socket."""
    socket = _socket(url)
    if socket is None:
        return str(url)
    place, options = socket
    return f"unix://{place}?{urlencode(options)}"


def _socket(url: AnyUrl | RedisDsn) -> tuple[str, dict[str, str]] | None:
    """Path and options of a Unix socket, named as redis-py does; None where Redis is elsewhere."""
    if url.scheme not in _SOCKET_SCHEMES:
        return None
    place, _, query = str(url).partition("://")[2].partition("?")
    options = {"db" if name == "virtual_host" else name: value for name, value in parse_qsl(query)}
    return place, {"db": "0"} | options


def sentinel_hosts(url: MultiHostUrl) -> list[tuple[str, int]]:
    return [((host["host"] or "").strip("[]"), host["port"] or _SENTINEL_PORT) for host in url.hosts()]


def master(url: MultiHostUrl) -> str:
    return dict(url.query_params())["master"]


def master_options(url: MultiHostUrl) -> dict[str, Any]:
    """Options of connections to the master itself."""
    first = url.hosts()[0]
    key = {name: unquote(value) for name in ("username", "password") if (value := first[name])}
    return key | {"db": int((url.path or "/").strip("/") or 0)}


def sentinel_options(url: MultiHostUrl, options: dict[str, Any]) -> dict[str, Any]:
    """Options of connections to the Sentinels: how long they may take is as with Redis."""
    query = dict(url.query_params())
    key = {name.removeprefix("sentinel_"): query[name] for name in _QUERY[1:] if name in query}
    timeouts = {name: options[name] for name in ("socket_connect_timeout", "socket_timeout") if name in options}
    return {"socket_connect_timeout": 2, "socket_timeout": 5} | timeouts | key
