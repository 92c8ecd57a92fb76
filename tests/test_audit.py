"""The audit of installed packages tells what it found, and never that all is well where nothing was looked up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parent.parent / ".ci" / "audit.py"
WHOLE = {"name": "whole", "version": "1", "vulns": []}
FAULTY = {"name": "faulty", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found on PyPI"}


@pytest.mark.parametrize(
    ("answer", "status", "reported"),
    [
        ([WHOLE, FAULTY], 1, ["faulty 1: PYSEC-1, fixed in 2", "1 of 2 packages have", "NOT AUDITED: "]),
        ([WHOLE, UNKNOWN], 0, ["0 of 1 packages have", "could not be looked up: not found on PyPI"]),
        ([UNKNOWN], 0, ["0 of 0 packages have", "could not be looked up: not found on PyPI"]),
        (None, 0, ["0 of 0 packages have", "could not be looked up: the service is away"]),
    ],
)
def test_what_could_not_be_looked_up_is_told(
    tmp_path: Path, answer: list[object] | None, status: int, reported: list[str]
) -> None:
    said = "" if answer is None else json.dumps({"dependencies": answer})
    # In place of the real one, which speaks to PyPI.
    (tmp_path / "pip_audit.py").write_text(f"import sys\nprint({said!r})\nsys.exit('the service is away')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, AUDIT], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == status, done.stderr
    for words in reported:
        assert words in done.stdout
    assert done.stdout.splitlines()[-1].startswith("NOT AUDITED: ")
