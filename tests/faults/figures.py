"""`python -m tests.faults.figures`: the tables of docs/reliability.md, written anew from benchmarks/results.

Also what tests of faults take for them: memory of processes, and rows that `accounted` does not write.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reliability.md"
_FAULTS = ROOT / "benchmarks" / "results" / "faults-cpu.json"
_SOAK = ROOT / "benchmarks" / "results" / "soak-cpu.json"
# Where they are made, loads are larger and longer than where a test of a fault only has to meet jobs in flight.
MADE = "FAULTS_JSON" in os.environ
_PART = "<!-- {0}: python -m tests.faults.figures -->\n{1}<!-- end of {0} -->\n"


def rss_mib(pid: int) -> float:
    """Resident memory. Linux."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def record(row: dict[str, Any]) -> None:
    """Into the file that FAULTS_JSON names, if it does, in the place of an earlier row of the same fault."""
    if path := os.environ.get("FAULTS_JSON"):
        rows = json.loads(Path(path).read_text()) if Path(path).exists() else []
        rows = [other for other in rows if other["fault"] != row["fault"]] + [row]
        Path(path).write_text(json.dumps(rows, indent=1) + "\n")


def rendered(document: str) -> str:
    """The document with its tables as the figures are now."""
    rows = json.loads(_FAULTS.read_text())
    parts = {
        "faults": _faults([row for row in rows if row["fault"] != "overload"]),
        "overload": _overload(next(row for row in rows if row["fault"] == "overload")),
        "soak": _soak(json.loads(_SOAK.read_text())),
    }
    for name, table in parts.items():
        before, after = _PART.format(name, "\0").split("\0")
        found = re.compile(re.escape(before) + ".*?" + re.escape(after), re.DOTALL)
        document, count = found.subn(lambda _, new=before + table + after: new, document)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"{DOCUMENT} has {count} parts named {name}")
    return document


def _faults(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| fault | clients | jobs accepted | in flight then | lost | different | failed | seconds |",
        "|" + "---|" * 8,
    ]
    for row in rows:
        cells = [row[key] for key in ("fault", "clients", "jobs_accepted", "jobs_in_flight", "lost", "different")]
        lines.append("| " + " | ".join(map(_cell, [*cells, row["failed"], row["recovery_s"]])) + " |")
    return "\n".join(lines) + "\n"


def _overload(row: dict[str, Any]) -> str:
    grown = ", ".join(f"{'gateway' if name == 'api' else name} {mib:+.1f}" for name, mib in row["grown_mib"].items())
    reported = {
        "requests that the worker manages in a second": row["capacity_per_s"],
        "requests that came, in " + _cell(row["seconds"]) + " s": row["requests"],
        "answered rightly": row["jobs_accepted"] - row["different"],
        "answered wrongly": row["different"],
        "refused with 429 and `Retry-After`": row["refused"],
        "p99 of those answered, at half of what the worker manages, s": row["calm_p99_s"],
        "p99 of those answered, at ten times as much, s": row["p99_s"],
        "what a full queue takes, s": row["full_queue_s"],
        "memory gained meanwhile, MiB": grown,
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {_cell(value)} |\n" for name, value in reported.items())


def _soak(found: dict[str, Any]) -> str:
    requests = sum(count for how, count in found["requests"].items() if how != "reloaded")
    lines = [
        f"| second half of {found['minutes']:g} minutes, {requests:,} requests | mean | rise | allowed |",
        "|---|---|---|---|",
    ]
    for name, line in found["second_half"].items():
        lines.append(f"| {name} | {line['mean']:.1f} | {line['rise']:.2f} | {line['allowed']:.2f} |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    DOCUMENT.write_text(rendered(DOCUMENT.read_text()))
