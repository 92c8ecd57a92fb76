"""`neuron settings`: docs/settings.md is what the code says, and a terminal shows the same."""

import json
import re

import pytest

from api.settings import ApiSettings
from cli.settings import markdown, terminal
from contract.settings import PREFIX
from tests.cli.conftest import ROOT, Neuron
from worker.settings import WorkerSettings

PAGE = (ROOT / "docs" / "settings.md").read_text()
NAMES = [PREFIX + name.upper() for settings in (ApiSettings, WorkerSettings) for name in settings.model_fields]
_STYLES = re.compile(r"\x1b\[[0-9;]*m")


def test_the_page_is_that_of_the_code() -> None:
    assert PAGE.endswith("\n" + markdown() + "\n"), "docs/settings.md must end with `neuron settings --format markdown`"


def test_every_setting_stands_once() -> None:
    for name in NAMES:
        assert markdown().count(f"| `{name}` |") == 1


def test_the_command_prints_either(neuron: Neuron) -> None:
    assert neuron("settings", "--format", "markdown").output == markdown() + "\n"
    shown = neuron("settings", env={"COLUMNS": "72"}).output
    assert shown == _STYLES.sub("", terminal(72)) + "\n"
    assert "|" not in shown


def test_the_values_in_force(neuron: Neuron) -> None:
    environment = {"NEURON_API_PORT": "8123", "NEURON_REDIS_URL": "redis://:secret@redis:6379/0"}
    found = json.loads(neuron("settings", "--effective", "--json", env=environment).output)
    assert found["api"]["NEURON_API_PORT"] == "8123"
    assert found["worker"]["NEURON_REDIS_URL"] == "redis://:***@redis:6379/0"
    lines = neuron("settings", "--effective", env=environment).output.splitlines()
    assert "NEURON_API_PORT=8123" in lines
    assert sorted(line.partition("=")[0] for line in lines) == sorted(set(NAMES))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_shows_every_setting_within_its_width(width: int) -> None:
    shown = _STYLES.sub("", terminal(width))
    for name in NAMES:
        assert len(re.findall(rf"^{name} (?:= \S+|\(unset\))\n {{4}}\S", shown, re.MULTILINE)) == 1
    meanings = [line for line in shown.splitlines() if line.startswith("    ")]
    assert max(map(len, meanings)) <= width
    flowing = " ".join(shown.split())
    for settings in (ApiSettings, WorkerSettings):
        assert [field for field in settings.model_fields.values() if (field.description or "?") not in flowing] == []


def test_a_default_is_shown() -> None:
    assert "\nNEURON_API_PORT = 8000\n" in _STYLES.sub("", terminal(80))
    assert "\nNEURON_API_KEYS (unset)\n" in _STYLES.sub("", terminal(80))
