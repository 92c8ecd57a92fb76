"""`rows` answers a file of every format in a process of its own, and writes its figures."""

import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks.rows import rows


def test_every_format(tmp_path: Path) -> None:
    report = tmp_path / "rows.json"
    done = CliRunner().invoke(rows, ["--rows", "300", "--json", str(report)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    runs = json.loads(report.read_text())["runs"]
    assert [(run["format"], run["rows"]) for run in runs] == [("csv", 300), ("jsonl", 300), ("parquet", 300)]
    assert all(run["rows_per_s"] > 0 and run["peak_rss_mb"] > 1 and run["bytes"] > 300 * 100 for run in runs)
    assert len(done.stdout.splitlines()) == 1 + len(runs)
