"""docs/results.md is of the shipped checkpoint, and every number in it, and beside it, is that of a report."""

import hashlib
import json
import re
from pathlib import Path

from cli.evaluate_all import results_page
from evaluation import summary
from model.checkpoints import volumes
from model.checkpoints.checkpoint import MANIFEST, manifest_sha256

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGE = DOCS / "results.md"
WITHOUT_LABELS = DOCS / "results-unlabelled"
WITHOUT_MODEL = {"tricks"}
REPORTS = {path.parent.name: json.loads(path.read_bytes()) for path in (DOCS / "results").glob("*/report.json")}


def measured(checkpoint: Path) -> set[str]:
    """Of the manifest, and as older reports knew it: since then only the histogram of its unit was added."""
    record = json.loads((checkpoint / MANIFEST).read_text())
    del record["unit_histogram"]
    record["format_version"] = 2
    return {manifest_sha256(checkpoint), hashlib.sha256(json.dumps(record, indent=1).encode()).hexdigest()}


def test_every_protocol_was_run_on_the_shipped_checkpoint() -> None:
    shipped = measured(volumes.resolve(ROOT / "model" / "pretrained"))
    assert set(REPORTS) == set(summary.SECTIONS)
    of_model = {name: report for name, report in REPORTS.items() if name not in WITHOUT_MODEL}
    of_model["growth"] = REPORTS["growth"]["points"][-1]
    assert {name for name, report in of_model.items() if report["manifest_sha256"] not in shipped} == set()


def test_the_page_is_what_the_reports_make() -> None:
    assert PAGE.read_text() == results_page(DOCS / "results", DOCS, beside=WITHOUT_LABELS)
    assert WITHOUT_LABELS.with_suffix(".md").read_text() == results_page(WITHOUT_LABELS, DOCS)


def test_the_model_without_labels_is_there_too() -> None:
    reports = [json.loads(path.read_bytes()) for path in WITHOUT_LABELS.glob("*/report.json")]
    found = {report["manifest_sha256"] for report in reports if "manifest_sha256" in report}
    assert found == {manifest_sha256(next((ROOT / "model" / "pretrained" / "reviews-mlstm-1024").iterdir()))}


def test_its_figures_are_there_and_its_commands_name_no_machine() -> None:
    page = PAGE.read_text()
    links = re.findall(r"\]\((\S+?\.(?:png|html))\)", page)
    assert len(links) > 10
    assert [link for link in links if not (DOCS / link).is_file()] == []
    for report in REPORTS.values():
        assert not re.search(r"(^|\s)/", report["command"]), report["command"]
