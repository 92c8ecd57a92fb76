from pathlib import Path

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
