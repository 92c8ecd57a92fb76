"""`page` drives a browser and writes its figures."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.chromium import CHROMIUM
from benchmarks.page import page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


def test_it_measures_every_size(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = CliRunner().invoke(page, ["--size", "200", "--json", str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = json.loads(path.read_text())["rows"]
    assert [(row["characters"], row["slower"]) for row in rows] == [(200, 1), (200, 4)]
    assert all(row["ms_per_key"] > 0 and row["longest_ms"] >= 0 for row in rows)
