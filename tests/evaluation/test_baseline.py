from pathlib import Path

import numpy as np
import pytest

from evaluation import baseline
from evaluation.features import EvaluationError
from tests.support.carrier import letters


def test_what_the_baseline_chose_is_kept_by_its_texts(tmp_path: Path) -> None:
    texts, labels = letters(60, 1).texts, np.array([int(label) for label in letters(60, 1).labels])
    splits = [(np.arange(40), np.arange(40, 60))]
    advanced: list[int] = []
    first = baseline.fit_baseline(texts, labels, 60, splits, tmp_path, advanced.append)
    assert advanced == [1] * baseline.fits(splits)
    (kept,) = tmp_path.iterdir()

    def again(texts: list[str]) -> baseline.Baseline:
        advanced.clear()
        return baseline.fit_baseline(texts, labels, 60, splits, tmp_path, advanced.append)

    found = again(texts)
    assert advanced == [baseline.fits(splits)]
    assert found.choice == first.choice
    assert (found.predict(texts) == first.predict(texts)).all()
    again([*texts[:-1], "other"])
    assert advanced == [1] * baseline.fits(splits)
    for damage in ("", "[7, 1.0, true, 0.5]", "[1, 1.0, 0.5]", "{}", "[1]"):
        kept.write_text(damage)
        again(texts)
        assert advanced == [1] * baseline.fits(splits)


def test_words_that_no_two_texts_share() -> None:
    """Such as those of a script without spaces: each text is one word."""
    texts, labels = [chr(0x4E00 + number) * 8 for number in range(10)], np.array([0, 1] * 5)
    splits = [(np.arange(8), np.arange(8, 10))]
    shared = [f"{text} {'good' if label else 'bad'}" for text, label in zip(texts, labels, strict=True)]
    assert baseline.fit_baseline(shared, labels, 10, splits, None).choice.accuracy == 1.0
    assert baseline.fit_baseline(texts, labels, 10, splits, None).choice.min_df == 1  # each word is in one text
    with pytest.raises(EvaluationError, match="finds no word"):
        baseline.fit_baseline(["!"] * 10, labels, 10, splits, None)
