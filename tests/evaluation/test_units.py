from dataclasses import replace
from pathlib import Path

import pytest

from evaluation import units
from evaluation.features import Reader
from tests.support.carrier import UNIT, UNITS, assert_pictures, flipped, sets


def test_units_chooses_nothing_on_the_test_part(reader: Reader) -> None:
    one = sets(noise=0.25)
    values = units.evaluate(reader, one, folds=5).values
    other = units.evaluate(reader, replace(one, test=flipped(one.test)), folds=5).values
    for name in ("C", "standardized", "top", "weights", "nonzero"):
        assert other[name] == values[name]
    assert [step["alone"] for step in other["steps"]] == pytest.approx([1 - step["alone"] for step in values["steps"]])


def test_units_shows_the_spike(reader: Reader, tmp_path: Path) -> None:
    report = units.evaluate(reader, sets(noise=0.1), folds=5)
    values = report.values
    assert values["top"][0]["unit"] == UNIT
    assert values["sentiment_unit_rank"] == 1
    first = values["steps"][0]
    assert first["units"] == 1
    assert first["alone"] > 0.8
    assert first["without"] < 0.75
    assert len(values["weights"][0]) == UNITS
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["weights", "top"])
