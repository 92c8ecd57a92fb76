"""The baseline: logistic regression on tf-idf of words and pairs of words, min_df and C by grid search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.evaluation.sets import Rows, Split

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
    advance: Callable[[int], None] = lambda _count: None,
) -> Baseline:
    """Choose by mean accuracy over the splits, then fit on the first `train_rows` rows (trainer/evaluation/sets.py).

    advance: called with 1 after every fit.
    """
    scores: dict[tuple[int, float], list[float]] = {(min_df, c): [] for min_df in MIN_DF for c in C}
    for fit_rows, judge_rows in splits:
        for min_df in MIN_DF:
            vectorizer = _vectorizer(min_df)
            fit_x = vectorizer.fit_transform([texts[row] for row in fit_rows])
            judge_x = vectorizer.transform([texts[row] for row in judge_rows])
            for c in C:
                fitted = _regression(c).fit(fit_x, y[fit_rows])
                scores[min_df, c].append(float(fitted.score(judge_x, y[judge_rows])))
                advance(1)
    min_df, c = max(scores, key=lambda one: float(np.mean(scores[one])))
    vectorizer = _vectorizer(min_df)
    regression = _regression(c).fit(vectorizer.fit_transform(texts[:train_rows]), y[:train_rows])
    return Baseline(min_df, c, float(np.mean(scores[min_df, c])), vectorizer, regression)


def fits(splits: Sequence[Split]) -> int:
    """How many fits the grid search takes."""
    return len(MIN_DF) * len(C) * len(splits)


def _vectorizer(min_df: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), min_df=min_df, sublinear_tf=True)


def _regression(c: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=1000)
