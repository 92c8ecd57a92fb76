"""`recurrent` measures fitting and answering beside the plain loop, and writes its figures."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.recurrent import recurrent


def test_both_cells_and_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "recurrent.json"
    done = CliRunner().invoke(
        recurrent, ["--texts", "64", "--units", "4", "--runs", "1", "--json", str(path)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    figures = json.loads(path.read_text())["figures"]
    assert [(one["cell"], one["what"]) for one in figures] == [
        (cell, what) for cell in ("gru", "lstm") for what in ("fit", "predict")
    ]
    for one in figures:
        assert one["ratio"] == pytest.approx(one["texts_per_s"] / one["plain_texts_per_s"])
    assert len(done.stdout.splitlines()) == 1 + len(figures)
