from pathlib import Path

import pytest

from evaluation import shifts
from evaluation.features import Reader
from tests.support.carrier import assert_pictures


def test_shifts_finds_where_the_mark_stands(reader: Reader, tmp_path: Path) -> None:
    texts = [f"{'x' * 60} + {'y' * 40}"] * 3
    report = shifts.evaluate(reader, texts, None)
    by_byte = {row["from"]: row["mean_change"] for row in report.values["by_byte"]}
    assert max(by_byte, key=lambda start: by_byte[start]) == 50  # 25 bytes each; the mark is byte 63
    assert by_byte[50] == pytest.approx(1 / 25, rel=0.05)
    by_share = {row["from"]: row["mean_change"] for row in report.values["by_share"]}
    assert max(by_share, key=lambda start: by_share[start]) == pytest.approx(0.55)
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["by_byte", "by_share"])
