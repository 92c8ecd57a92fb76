"""`neuron` itself: every command exists, help loads none, and a missing extra is named."""

import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from cli.main import COMMANDS, main

# As on a machine where only the gateway's dependencies are installed.
_WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from cli.main import main; main()"
# Each takes longer to load than help may take to answer.
_WITH_CLICK_ALONE = (
    "import sys; sys.modules.update(dict.fromkeys(['torch', 'numpy', 'pydantic', 'rich'])); "
    "from cli.main import main; main(prog_name='neuron')"
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith(f"Usage: main {name}")


def test_help_lists_all_and_loads_next_to_nothing() -> None:
    command = [sys.executable, "-c", _WITH_CLICK_ALONE, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name, (_, line) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert line.split()[0] in done.stdout


@pytest.mark.parametrize("name", ["classify", "head"])
def test_help_of_a_command_waits_for_no_library(name: str) -> None:
    command = [sys.executable, "-c", _WITH_CLICK_ALONE.replace("'pydantic', 'rich'", "'pydantic'"), name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"Usage: neuron {name} "), done.stderr


@pytest.mark.parametrize("name", ["featurize", "trace", "generate"])
def test_help_of_a_command_waits_for_no_torch(name: str) -> None:
    command = [sys.executable, "-c", _WITHOUT_TORCH, name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Usage: "), done.stderr


def test_completion_loads_next_to_nothing() -> None:
    words = {"_NEURON_COMPLETE": "zsh_complete", "COMP_WORDS": "neuron tra", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", _WITH_CLICK_ALONE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | words)
    expected = [part for name in ("trace", "train") for part in ("plain", name, COMMANDS[name][1])]
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize(("name", "extra"), [("classify", "engine"), ("train", "trainer"), ("publish", "trainer")])
def test_a_missing_extra_is_named(name: str, extra: str) -> None:
    command = [sys.executable, "-c", _WITHOUT_TORCH, name, "Good."]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"needs torch: `make setup` in a checkout, or pip install 'sentiment-neuron[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command() -> None:
    shown = CliRunner().invoke(main, ["clasify"])
    assert shown.exit_code == click.UsageError.exit_code
    assert "There is no command 'clasify'; did you mean 'classify'?" in shown.output


def test_an_unknown_command_of_a_group() -> None:
    assert "did you mean 'fit'?" in CliRunner().invoke(main, ["head", "fitt"]).output
