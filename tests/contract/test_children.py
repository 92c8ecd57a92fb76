"""Children import the rooms that their parent has, not what lies in the working directory."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

import contract
from contract import children
from tests.support.decoys import PACKAGES, write_decoys

ROOT = Path(contract.__file__).parents[1]


@pytest.mark.parametrize(
    ("inherited", "given"),
    [
        (None, [ROOT]),
        ("", [ROOT]),
        (".", [ROOT]),
        (f":/elsewhere::rooms:{ROOT}:../rooms", [ROOT, "/elsewhere"]),
        (f"{ROOT}:/elsewhere", [ROOT, "/elsewhere"]),
    ],
)
def test_only_absolute_entries_are_inherited(inherited: str | None, given: list[Path | str]) -> None:
    variables = {"HOME": "/home"} if inherited is None else {"HOME": "/home", "PYTHONPATH": inherited}
    assert children.environment(variables) == {"HOME": "/home", "PYTHONPATH": ":".join(map(str, given))}


def test_an_installed_package_adds_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(ROOT))
    assert children.environment({"HOME": "/home", "PYTHONPATH": ":"}) == {"HOME": "/home"}
    assert children.environment({"PYTHONPATH": "/elsewhere"}) == {"PYTHONPATH": "/elsewhere"}


@pytest.mark.parametrize("inherited", ["", ".", f":{ROOT}", f".:{ROOT}", str(ROOT)])
def test_a_child_in_a_folder_of_decoys_imports_the_rooms_of_its_parent(tmp_path: Path, inherited: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "probe.py").write_text(
        f"import {', '.join(PACKAGES)}\nprint(*(room.__file__ for room in ({', '.join(PACKAGES)})))\n"
    )
    found = subprocess.run(
        children.command("probe"),
        cwd=write_decoys(tmp_path),
        env=children.environment(os.environ | {"PYTHONPATH": f"{inherited}:{tmp_path / 'elsewhere'}"}),
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [str(ROOT / room / "__init__.py") for room in PACKAGES]


def test_the_decoys_would_be_imported_otherwise(tmp_path: Path) -> None:
    command = [part for part in children.command("worker") if part != "-P"]
    found = subprocess.run(command, cwd=write_decoys(tmp_path), capture_output=True, text=True)
    assert f"the decoy {tmp_path / 'worker'}" in found.stderr
