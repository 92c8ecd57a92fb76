"""The showdown: contenders learn from the same draws, choose nothing on the test, and areas are those of the curve."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation import showdown
from evaluation.area import area, area_interval
from evaluation.features import EvaluationError, Reader
from evaluation.showdown import Answer, Contender
from recurrent.options import Options
from tests.support.carrier import assert_pictures, flipped, sets
from texts.labelled import Labelled


def test_the_area_is_that_under_the_curve() -> None:
    draw = np.random.default_rng(0)
    y = draw.integers(0, 2, 200)
    for scores in (draw.normal(size=200) + y, draw.integers(0, 4, 200).astype(float), np.zeros(200)):
        assert area(scores, y) == pytest.approx(roc_auc_score(y, scores))


@pytest.mark.parametrize("found", [0.5, 0.9, 1.0])
def test_the_interval_of_an_area(found: float) -> None:
    tried = np.linspace(0, 1, 100_001)
    of_positive, of_negative = tried / (2 - tried), 2 * tried**2 / (1 + tried)
    variance = (
        tried * (1 - tried) + 29 * (of_positive - tried**2) + 19 * (of_negative - tried**2)
    ) / 600  # Hanley & McNeil 1982, 30 positive and 20 negative
    inside = tried[np.abs(tried - found) <= 1.96 * np.sqrt(np.maximum(variance, 0)) + 1e-12]
    assert area_interval(found, 30, 20) == pytest.approx((inside.min(), inside.max()), abs=2e-5)
    assert area_interval(1.0, 5, 5)[0] < area_interval(1.0, 500, 500)[0] < area_interval(1.0, 5, 5)[1] == 1.0


def test_draws_are_of_their_size_and_of_both_labels() -> None:
    y = np.array([0] * 30 + [1] * 70)
    for size, ones in ((20, 10), (60, 30), (80, 50), (100, 70)):
        drawn = showdown._draws(y, size, np.random.default_rng(0))
        assert len(drawn) == (1 if size == 100 else 5)
        for rows in drawn:
            assert len(set(rows.tolist())) == size
            assert y[rows].sum() == ones


def test_what_cannot_be_judged_or_learned_says_why(reader: Reader) -> None:
    one = sets(valid=False)
    test = Labelled(one.test.texts, ["1"] * len(one.test.labels))
    with pytest.raises(EvaluationError, match="all texts of the test part have one label"):
        showdown.evaluate(reader, replace(one, test=test), [40])
    with pytest.raises(EvaluationError, match="cannot learn from 40 texts: no word is in min_df=1000"):
        showdown._recurrent(Options(min_df=1000), one.train.texts[:40], np.array([0, 1] * 20), 0)


def test_contenders_choose_nothing_on_the_test_part(reader: Reader, tmp_path: Path) -> None:
    one = sets(valid=False)
    evaluate = partial(showdown.evaluate, reader, options=Options(embedding=4, units=4, epochs=3))
    seen: list[tuple[int, int]] = []

    def fit(texts: Any, y: Any, rows: Any) -> Answer:
        seen.append((len(texts), int(y.sum())))
        assert [one.train.texts[row] for row in rows] == texts
        return lambda asked: np.array([text.count("+") - 0.5 for text in asked])

    mark = Contender("the mark", fit, most=40)
    more = [mark, replace(mark, name="the mark, twice", draws=2)]
    report = evaluate(one, [40, 1000], more)
    points = {(point["contender"], point["examples"]): point for point in report.values["points"]}
    names = {"tf-idf", "recurrent", "features", "the unit"}
    assert set(points) == {(name, size) for name in names for size in (40, 120)} | {(asked.name, 40) for asked in more}
    assert seen == [(40, 20)] * (5 + 2)
    assert report.notes == ["1,000 texts were asked for: there are 120."]
    for name in ("the mark", "the unit"):
        assert (points[name, 40]["accuracy"], points[name, 40]["auc"]) == (1.0, 1.0)
    for point in points.values():
        assert point["lowest"] <= point["accuracy"] <= point["highest"]
        low, high = point["accuracy_interval"]
        assert low <= point["accuracy"] <= high + 1e-9
        assert point["fit_s"] >= 0
        assert point["texts_per_s"] > 0
    assert points["features", 40]["texts_per_s"] == points["the unit", 120]["texts_per_s"]  # both read as much
    assert evaluate(one, [40, 1000], more).values["points"] == report.values["points"]
    assert len(seen) == 7
    whole = replace(mark, most=None)
    alone = evaluate(one, [120], [whole]).values["points"]
    assert len(seen) == 8
    evaluate(one, [120], [whole])
    assert len(seen) == 8  # what was measured is kept
    evaluate(one, [120], [replace(whole, about=lambda _: "another")])
    assert len(seen) == 9
    for path in reader.judged.iterdir():
        path.write_text("{")
    evaluate(one, [120], [whole])
    assert len(seen) == 10
    others = evaluate(replace(one, test=flipped(one.test)), [120], [whole]).values["points"]
    for other, point in zip(others, alone, strict=True):
        assert other["contender"] == point["contender"]
        assert other["accuracy"] == pytest.approx(1 - point["accuracy"])
        assert other["auc"] == pytest.approx(1 - point["auc"])
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["accuracy", "seconds"])
