from pathlib import Path

import numpy as np

from evaluation import baseline
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
