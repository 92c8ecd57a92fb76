"""Names of settings: what is misspelt or renamed is refused, what belongs to the other process is not."""

from typing import ClassVar

import pytest

from api.settings import ApiSettings
from contract.setting_error import SettingError
from contract.settings import PREFIX, ProcessSettings, UnknownSettingError
from worker.settings import WorkerSettings


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (ApiSettings, "NEURON_API_PROT"),
        (WorkerSettings, "NEURON_WORKER_ROWS"),
        (ApiSettings, "NEURON_REDIS"),
        (WorkerSettings, "NEURON_CHECKPOINTS"),
    ],
)
def test_a_misspelt_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch, settings: type[ApiSettings | WorkerSettings], name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(UnknownSettingError, match=name):
        settings()


def test_a_misspelt_setting_is_told_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_API_PROT", "1")
    with pytest.raises(UnknownSettingError, match=r"not a setting of api; did you mean 'NEURON_API_PORT'\?"):
        ApiSettings()


# As Kubernetes writes them for the services neuron-api, neuron-worker and neuron, with a named port.
LINKS = {
    "NEURON_API_SERVICE_HOST": "10.96.0.12",
    "NEURON_API_SERVICE_PORT": "8000",
    "NEURON_API_SERVICE_PORT_HTTP": "8000",
    "NEURON_API_PORT": "tcp://10.96.0.12:8000",
    "NEURON_API_PORT_8000_TCP": "tcp://10.96.0.12:8000",
    "NEURON_API_PORT_8000_TCP_PROTO": "tcp",
    "NEURON_API_PORT_8000_TCP_PORT": "8000",
    "NEURON_API_PORT_8000_TCP_ADDR": "10.96.0.12",
    "NEURON_WORKER_PORT": "udp://10.96.0.13:9101",
    "NEURON_WORKER_SERVICE_HOST": "10.96.0.13",
    "NEURON_SERVICE_HOST": "10.96.0.14",
    "NEURON_PORT": "tcp://10.96.0.14:80",
    "NEURON_PORT_80_TCP_ADDR": "10.96.0.14",
}


def test_links_to_services_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NEURON_API_MAX_TEXTS", "7")
    assert (ApiSettings().api_port, ApiSettings().api_max_texts) == (8000, 7)
    WorkerSettings()
    monkeypatch.setenv("NEURON_API_PORT", "8123")
    assert ApiSettings().api_port == 8123
    monkeypatch.setenv("NEURON_API_SERVICE", "x")
    with pytest.raises(UnknownSettingError):
        ApiSettings()


def test_another_scheme_is_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_REDIS_URL", "http://127.0.0.1")
    with pytest.raises(SettingError, match="NEURON_REDIS_URL: URL scheme should be"):
        ApiSettings()


def test_what_is_not_the_default_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_API_PORT", "8123")
    monkeypatch.setenv("NEURON_API_MAX_TEXTS", "1024")  # as it is by default
    assert ApiSettings().changed() == {"NEURON_API_PORT": "8123"}


def test_settings_of_a_neighbour_are_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_WORKER_MAX_ROWS", "8")
    monkeypatch.setenv("NEURON_API_PORT", "1234")
    assert ApiSettings().api_port == 1234
    assert WorkerSettings().worker_max_rows == 8


def test_the_password_of_redis_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_REDIS_URL", "redis://user:secret@example.test:6379/0")
    assert "secret" not in str(ApiSettings().effective())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("NEURON_API_MAX_HEAD_BYTES", "NEURON_API_MAX_HEADER_BYTES"),
        ("NEURON_API_MAX_HEADS_BYTES", "NEURON_API_MAX_FIT_BYTES"),
    ],
)
def test_a_former_name_of_the_gateway_is_refused_with_the_present_one(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    monkeypatch.setenv(old, "20000")
    with pytest.raises(UnknownSettingError, match=rf"^{old} .* {new}$"):
        ApiSettings()
    WorkerSettings()  # to which it is a setting of the other process


def test_every_process_refuses_its_former_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(ProcessSettings):
        process: ClassVar[str] = "worker"
        renamed: ClassVar[dict[str, str]] = {"NEURON_WORKER_OLD": "NEURON_WORKER_NEW"}
        worker_new: int = 1

    monkeypatch.setenv("NEURON_WORKER_NEW", "2")
    assert Settings().worker_new == 2
    monkeypatch.setenv("NEURON_WORKER_OLD", "3")
    with pytest.raises(UnknownSettingError, match=r"^NEURON_WORKER_OLD .* NEURON_WORKER_NEW$"):
        Settings()


@pytest.mark.parametrize("settings", [ApiSettings, WorkerSettings])
def test_a_former_name_leads_to_a_setting_and_is_not_one(settings: type[ApiSettings | WorkerSettings]) -> None:
    names = {PREFIX + name.upper() for name in settings.model_fields}
    assert set(settings.renamed.values()) <= names
    assert not names & set(settings.renamed)
    assert all(name.startswith(f"{PREFIX}{settings.process.upper()}_") for name in settings.renamed)
