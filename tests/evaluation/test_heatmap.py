from pathlib import Path

import pytest

from evaluation import heatmap
from evaluation.features import Reader
from tests.support.carrier import UNIT, assert_pictures


def test_heatmap(reader: Reader, tmp_path: Path) -> None:
    texts = ["It was $ 5 + $ 6 &amp; 🙂", "x" * 200]
    traced = heatmap.trace(reader, texts, [UNIT, 0])
    report = heatmap.report(reader, traced, [UNIT, 0], {"text_1": "<p>"})
    assert report.values["texts"][0]["final"]["5"] == pytest.approx(1.0, abs=0.05)
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["text_1", "text_2"])
    assert (tmp_path / "text_1.html").read_text() == "<p>"
