"""`long-texts` runs and writes its figures."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.long_texts import long_texts


def test_it_measures_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LEAST_BYTES", "_WARM_UP_BYTES"):
        monkeypatch.setattr(f"benchmarks.long_texts.{name}", 1000)
    path = tmp_path / "figures.json"
    arguments = ["--units", "16", "--size", "500", "--size", "1500", "--json", str(path)]
    done = CliRunner().invoke(long_texts, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = json.loads(path.read_text())["rows"]
    assert [row["bytes"] for row in rows] == [500, 1500]
    assert all(row["cpu_us_per_byte"] > 0 and row["mib_more"] >= 0 for row in rows)
