from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation import curve
from evaluation.features import Reader
from tests.support.carrier import assert_pictures, flipped, sets


def test_curve_chooses_nothing_on_the_test_part(reader: Reader) -> None:
    one = sets(noise=0.25, valid=False)
    points = curve.evaluate(reader, one, draws=3).values["curve"]
    others = curve.evaluate(reader, replace(one, test=flipped(one.test)), draws=3).values["curve"]
    for point, other in zip(points, others, strict=True):
        assert other["mean"] == pytest.approx(1 - point["mean"])
        assert [other[key] for key in ("examples", "C", "standardized")] == [
            point[key] for key in ("examples", "C", "standardized")
        ]


def test_curve_of_the_unit_begins_high(reader: Reader, tmp_path: Path) -> None:
    report = curve.evaluate(reader, sets(), draws=5)
    values = report.values
    points = {(point["examples"], point["classifier"]): point for point in values["curve"]}
    assert {size for size, _ in points} == {8, 16, 32}
    assert {kind for _, kind in points} == {"l1", "l2", "unit"}
    assert points[8, "unit"]["mean"] == 1.0
    assert points[32, "l1"]["mean"] == 1.0
    assert all(0 <= point["p10"] <= point["p90"] <= 1 for point in values["curve"])
    assert curve.evaluate(reader, sets(), draws=5).values == values
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["curve"])


def test_the_least_size_has_room_for_every_class() -> None:
    assert [curve._sizes(100, labels) for labels in (2, 8, 9)] == [[8, 16, 32], [8, 16, 32], [16, 32]]
    assert curve._sizes(10, 5) == [5]


def test_a_draw_holds_every_class() -> None:
    y = np.array([0] * 99 + [1])
    for seed in range(20):
        drawn = curve._draw(y, np.arange(100), 8, np.random.default_rng(seed))
        assert len(set(drawn.tolist())) == 8
        assert set(y[drawn]) == {0, 1}
