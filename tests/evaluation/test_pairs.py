from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation import pairs
from evaluation.features import EvaluationError, Reader
from tests.support.carrier import assert_pictures


def paired(rows: int, seed: int) -> tuple[pairs.Pairs, pairs.Pairs]:
    """Pairs of marks: paraphrase if they are the same; as scores 1 or 5, and 3 where one has no mark."""
    draw = np.random.default_rng(seed)
    marks = [(str(draw.choice(["+", "-"])), str(draw.choice(["+", "-", "."]))) for _ in range(rows)]
    first, second = ([f"this {draw.integers(999)} {pair[side]} one" for pair in marks] for side in (0, 1))
    scores = ["3" if b == "." else "5" if a == b else "1" for a, b in marks]
    same = [str(int(a == b)) for a, b in marks]
    return pairs.Pairs(first, second, same), pairs.Pairs(first, second, scores)


def test_paraphrase(reader: Reader, tmp_path: Path) -> None:
    train, valid, test = (paired(rows, seed)[0] for rows, seed in ((90, 1), (45, 2), (45, 3)))
    report = pairs.paraphrase(reader, train, valid, test, folds=5)
    values = report.values
    assert (values["accuracy"], values["f1"]) == (1.0, 1.0)
    assert values["accuracy_most_frequent"] < 0.9
    other = replace(test, labels=["1" if label == "0" else "0" for label in test.labels])
    again = pairs.paraphrase(reader, train, None, other, folds=2).values
    assert (again["accuracy"], again["f1"]) == (0.0, 0.0)
    assert again["C"] == pairs.paraphrase(reader, train, None, test, folds=2).values["C"]
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["choice"])


@pytest.mark.parametrize("has_valid", [True, False])
def test_relatedness(reader: Reader, tmp_path: Path, has_valid: bool) -> None:
    train, valid, test = (paired(rows, seed)[1] for rows, seed in ((90, 1), (45, 2), (45, 3)))
    report = pairs.relatedness(reader, train, valid if has_valid else None, test, folds=2)
    values = report.values
    assert values["r"] > 0.95
    assert values["rho"] > 0.9
    assert values["mse"] < 0.2 < values["mse_mean_score"]
    turned = replace(test, labels=[str(6 - int(label)) for label in test.labels])
    other = pairs.relatedness(reader, train, valid if has_valid else None, turned, folds=2).values
    assert other["r"] == pytest.approx(-values["r"])
    assert other["C"] == values["C"]
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["relatedness"])


def test_a_score_between_whole_ones_is_shared() -> None:
    x = np.zeros((4, 1))
    predict = pairs._fit_scores(x, np.array([1.25, 1.25, 2.5, 3.0]), 1, 3, 1.0)
    assert predict(x[:1])[0] == pytest.approx(2.0, abs=0.01)  # nothing to tell them by: their mean


def test_every_fold_has_a_part_in_the_choice(reader: Reader) -> None:
    train, test = paired(90, 1)[1], paired(45, 3)[1]
    chosen_on = [pairs._score_splits(90, 90, folds) for folds in (1, 5)]
    assert [len(splits) for splits in chosen_on] == [1, 5]
    held = np.concatenate([held for _, held in chosen_on[1]])
    assert sorted(held.tolist()) == list(range(90))
    assert all(not set(fit.tolist()) & set(held.tolist()) for fit, held in chosen_on[1])
    with pytest.raises(EvaluationError, match="4 pairs are too few to hold out one in 5"):
        pairs.relatedness(
            reader, pairs.Pairs(*(one[:4] for one in (train.first, train.second, train.labels))), None, test, 5
        )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["good", "1"], "scores must be numbers"),
        (["1", "inf"], "must be finite"),
        (["0", "100"], "rescale them"),
        (["4", "4"], "they must span 2"),
    ],
)
def test_scores_that_will_not_do(reader: Reader, labels: list[str], message: str) -> None:
    bad = pairs.Pairs(["a", "b"], ["c", "d"], labels)
    with pytest.raises(EvaluationError, match=message):
        pairs.relatedness(reader, bad, None, pairs.Pairs(["a", "b"], ["c", "d"], ["1", "2"]), folds=5)
