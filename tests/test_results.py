"""docs/results.md is of the shipped checkpoint, and every number in it is that of a report beside it."""

import json
import re
from pathlib import Path

from cli.evaluate_all import results_page
from evaluation import summary
from evaluation.features import manifest_sha256
from model.checkpoints import volumes

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGE = DOCS / "results.md"
REPORTS = {path.parent.name: json.loads(path.read_bytes()) for path in (DOCS / "results").glob("*/report.json")}


def test_every_protocol_was_run_on_the_shipped_checkpoint() -> None:
    shipped = manifest_sha256(volumes.resolve(ROOT / "model" / "pretrained"))
    assert set(REPORTS) == set(summary.SECTIONS)
    last = REPORTS["growth"]["points"][-1]
    assert {
        name for name, report in {**REPORTS, "growth": last}.items() if report["manifest_sha256"] != shipped
    } == set()


def test_the_page_is_what_the_reports_make() -> None:
    assert PAGE.read_text() == results_page(DOCS / "results", DOCS)


def test_its_figures_are_there_and_its_commands_name_no_machine() -> None:
    page = PAGE.read_text()
    links = re.findall(r"\]\((\S+?\.(?:png|html))\)", page)
    assert len(links) > 10
    assert [link for link in links if not (DOCS / link).is_file()] == []
    for report in REPORTS.values():
        assert not re.search(r"(^|\s)/", report["command"]), report["command"]
