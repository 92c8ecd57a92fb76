"""The baseline: logistic regression on tf-idf of words and pairs of words, min_df and C by grid search.

The search does not depend on a checkpoint, so its choice is cached by the texts for every protocol that needs it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.sets import Rows, Split
from model.checkpoints.durable import replace_file

MIN_DF = (1, 2, 3)
C = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class Baseline:
    min_df: int
    c: float
    accuracy: float  # on the rows that min_df and C were chosen on, mean over the splits
    vectorizer: Any
    regression: Any

    def predict(self, texts: Sequence[str]) -> Rows:
        """Classes, (texts,)."""
        predicted: Rows = self.regression.predict(self.vectorizer.transform(texts)).astype(np.int64)
        return predicted


def fit_baseline(
    texts: Sequence[str],
    y: Rows,
    train_rows: int,
    splits: Sequence[Split],
    cache: Path,
    advance: Callable[[int], None] = lambda _count: None,
) -> Baseline:
    """Choose by mean accuracy over the splits, then fit on the first `train_rows` rows (evaluation/sets.py).

    cache: directory of earlier choices. advance: called with the number of fits just done.
    """
    path = cache / f"{_digest(texts, y, splits)}.json"
    chosen = _cached(path)
    if chosen is None:
        chosen = _search(texts, y, splits, advance)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(chosen))
    else:
        advance(fits(splits))
    min_df, c, accuracy = chosen
    vectorizer = _vectorizer(min_df)
    regression = _regression(c).fit(vectorizer.fit_transform(texts[:train_rows]), y[:train_rows])
    return Baseline(min_df, c, accuracy, vectorizer, regression)


def _search(
    texts: Sequence[str], y: Rows, splits: Sequence[Split], advance: Callable[[int], None]
) -> tuple[int, float, float]:
    """min_df, C, and the accuracy by which they were chosen."""
    scores: dict[tuple[int, float], list[float]] = {one: [] for one in product(MIN_DF, C)}
    for fit_rows, valid_rows in splits:
        for min_df in MIN_DF:
            vectorizer = _vectorizer(min_df)
            fit_x = vectorizer.fit_transform([texts[row] for row in fit_rows])
            valid_x = vectorizer.transform([texts[row] for row in valid_rows])
            for c in C:
                fitted = _regression(c).fit(fit_x, y[fit_rows])
                scores[min_df, c].append(float(fitted.score(valid_x, y[valid_rows])))
                advance(1)
    min_df, c = max(scores, key=lambda one: float(np.mean(scores[one])))
    return min_df, c, float(np.mean(scores[min_df, c]))


def _digest(texts: Sequence[str], y: Rows, splits: Sequence[Split]) -> str:
    digest = hashlib.sha256(json.dumps([MIN_DF, C, *texts]).encode())
    for rows in (y, *(part for split in splits for part in split)):
        digest.update(np.ascontiguousarray(rows, dtype=np.int64).tobytes() + b"|")
    return digest.hexdigest()


def _cached(path: Path) -> tuple[int, float, float] | None:
    """The cached choice; None if there is no file or it is damaged: the search then runs again."""
    try:
        min_df, c, accuracy = json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError):
        return None
    return (min_df, c, accuracy) if min_df in MIN_DF and c in C else None


def fits(splits: Sequence[Split]) -> int:
    """How many fits the grid search takes."""
    return len(MIN_DF) * len(C) * len(splits)


def _vectorizer(min_df: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - takes a second to load

    return TfidfVectorizer(ngram_range=(1, 2), min_df=min_df, sublinear_tf=True)


def _regression(c: float) -> Any:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes a second to load

    return LogisticRegression(C=c, max_iter=1000)
