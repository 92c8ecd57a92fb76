"""Every way in which NEURON_REDIS_URL may name Redis, as each client takes it."""

import pytest
from pydantic_core import MultiHostUrl

from api.settings import ApiSettings
from contract import redis_url
from contract.setting_error import SettingError


@pytest.mark.parametrize(
    ("url", "client", "broker"),
    [
        ("unix:///run/r.sock", "unix:///run/r.sock?db=0", "redis+socket:///run/r.sock?virtual_host=0"),
        ("unix:///run/r.sock?db=2", "unix:///run/r.sock?db=2", "redis+socket:///run/r.sock?virtual_host=2"),
        ("redis+socket:///r.sock?virtual_host=1", "unix:///r.sock?db=1", "redis+socket:///r.sock?virtual_host=1"),
        (
            "unix:///r.sock?password=a%20secret",
            "unix:///r.sock?db=0&password=a+secret",
            "redis+socket://:a%20secret@/r.sock?virtual_host=0",
        ),
        (
            "rediss://u:secret@h:1/3?ssl_ca_certs=x",
            "rediss://u:secret@h:1/3?ssl_ca_certs=x",
            "rediss://u:secret@h:1/3?ssl_ca_certs=x",
        ),
    ],
)
def test_redis_by_an_address_or_a_socket(monkeypatch: pytest.MonkeyPatch, url: str, client: str, broker: str) -> None:
    monkeypatch.setenv("NEURON_REDIS_URL", url)
    settings = ApiSettings()
    assert not isinstance(settings.redis_url, MultiHostUrl)
    assert redis_url.of_client(settings.redis_url) == client
    assert redis_url.broker(settings.redis_url) == (broker, {})
    assert "secret" not in str(settings.effective())


def test_redis_by_its_sentinels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "NEURON_REDIS_URL",
        "redis+sentinel://user:a%40secret@one:1,:b-secret@two,[::1]:3/4?master=m&sentinel_username=s&sentinel_password=secret",
    )
    settings = ApiSettings()
    url = settings.redis_url
    assert isinstance(url, MultiHostUrl)
    assert redis_url.sentinel_hosts(url) == [("one", 1), ("two", 26379), ("::1", 3)]
    assert redis_url.master(url) == "m"
    assert redis_url.master_options(url) == {"username": "user", "password": "a@secret", "db": 4}
    of_sentinels = {"socket_connect_timeout": 2, "socket_timeout": 5, "username": "s", "password": "secret"}
    assert redis_url.sentinel_options(url, {}) == of_sentinels
    key = "user:a%40secret"
    assert redis_url.broker(url) == (
        f"sentinel://{key}@one:1/4;sentinel://{key}@two:26379/4;sentinel://{key}@[::1]:3/4",
        {"master_name": "m", "sentinel_kwargs": of_sentinels},
    )
    assert "secret" not in str(settings.effective())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1", "URL scheme should be"),
        ("redis+sentinel://one:1/0", "which master of the Sentinels"),
        ("redis+sentinel://one:1/0?master=m&other=x", "other is not known beside master"),
        ("redis+sentinel://one:1/m?master=m", "behind the Sentinels stands the number of the database"),
    ],
)
def test_what_names_no_redis_is_refused(monkeypatch: pytest.MonkeyPatch, url: str, message: str) -> None:
    monkeypatch.setenv("NEURON_REDIS_URL", url)
    with pytest.raises(SettingError, match=message):
        ApiSettings()
