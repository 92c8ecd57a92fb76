"""`long-texts` runs and writes its figures."""

import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks.long_texts import long_texts


def test_it_measures_every_size(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    arguments = ["--units", "16", "--size", "1000", "--size", "3000", "--json", str(path)]
    done = CliRunner().invoke(long_texts, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = json.loads(path.read_text())["rows"]
    assert [row["bytes"] for row in rows] == [1000, 3000]
    assert all(row["cpu_us_per_byte"] > 0 and row["mib_more"] >= 0 for row in rows)
