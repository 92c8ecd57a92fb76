from pathlib import Path

import numpy as np
import pytest

from evaluation import histogram
from evaluation.features import EvaluationError, Reader
from tests.support.carrier import UNIT, UNITS, assert_pictures, flipped, labelled


def test_histogram(reader: Reader, tmp_path: Path) -> None:
    part = labelled(40, 9)
    report = histogram.evaluate(reader, part, None)
    classes = report.values["classes"]
    assert [classes[label]["mean"] for label in ("0", "1")] == pytest.approx([-1.0, 1.0], abs=0.05)
    assert report.values["area_under_roc"] == 1.0
    assert histogram.evaluate(reader, flipped(part), UNIT).values["area_under_roc"] == 0.0
    assert histogram.evaluate(reader, part, 0).values["unit"] == 0
    with pytest.raises(EvaluationError, match="unit 12 does not exist: carrier/step-3 has units 0 to 11"):
        histogram.evaluate(reader, part, UNITS)
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["histogram"])


def test_area_counts_pairs() -> None:
    draw = np.random.default_rng(0)
    low, high = draw.integers(0, 5, 30).astype(float), draw.integers(1, 7, 20).astype(float)
    pairs_of = [(1.0 if b > a else 0.5 if a == b else 0.0) for a in low for b in high]
    assert histogram._area(low, high) == pytest.approx(np.mean(pairs_of))
