"""The tables of docs/reliability.md are those of its figures, and these keep what is promised."""

import json

from tests.faults.figures import DOCUMENT, ROOT, rendered

RESULTS = ROOT / "benchmarks" / "results"


def test_the_tables_are_those_of_the_figures() -> None:
    written = DOCUMENT.read_text()
    assert written == rendered(written), "run: python -m tests.faults.figures"


def test_the_figures_keep_the_promise() -> None:
    rows = json.loads((RESULTS / "faults-cpu.json").read_text())
    faults = [row for row in rows if row["fault"] != "overload"]
    assert faults
    assert all(row["clients"] == 200 and row["jobs_in_flight"] > 0 for row in faults)
    assert all(row["lost"] == row["different"] == 0 for row in faults)
    [overload] = [row for row in rows if row["fault"] == "overload"]
    assert overload["refused"] > overload["jobs_accepted"] > 0
    assert overload["different"] == 0
    soak = json.loads((RESULTS / "soak-cpu.json").read_text())
    assert all(line["flat"] for line in soak["second_half"].values())
    assert "failed" not in soak["requests"]
