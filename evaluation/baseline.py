"""The baseline: logistic regression on tf-idf of words and pairs of words, all that it can be by grid search.

The search does not depend on a checkpoint, so its choice is cached by the texts for every protocol that needs it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.features import EvaluationError
from evaluation.sets import Rows, Split
from model.checkpoints.durable import replace_file

MIN_DF = (1, 2, 3)
C = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
LOGARITHMS = (True,)  # whether counts of a word enter by their logarithm (sublinear_tf)


@dataclass(frozen=True)
class Choice:
    min_df: int
    c: float
    logarithms: bool
    accuracy: float  # on the rows that it was chosen on, mean over the splits


@dataclass(frozen=True)
class Baseline:
    choice: Choice
    vectorizer: Any
    regression: Any

    def predict(self, texts: Sequence[str]) -> Rows:
        """Classes, (texts,)."""
        predicted: Rows = self.regression.predict(self.vectorizer.transform(texts)).astype(np.int64)
        return predicted

    def log_odds(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Of the second of two classes, (texts,)."""
        found: NDArray[np.float64] = self.regression.decision_function(self.vectorizer.transform(texts))
        return found


def fit_baseline(
    texts: Sequence[str],
    y: Rows,
    train_rows: int,
    splits: Sequence[Split],
    cache: Path | None,
    advance: Callable[[int], None] = lambda _count: None,
    logarithms: Sequence[bool] = LOGARITHMS,
) -> Baseline:
    """Choose by mean accuracy over the splits, then fit on the first `train_rows` rows (evaluation/sets.py).

    cache: directory of earlier choices; without one it is always searched. advance: called with the number of fits just
    done. logarithms: what is tried of it.
    """
    path = None if cache is None else cache / f"{_digest(texts, y, splits, logarithms)}.json"
    choice = None if path is None else _cached(path)
    if choice is None:
        choice = _search(texts, y, splits, advance, logarithms)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps(astuple(choice)))
    else:
        advance(fits(splits, logarithms))
    vectorizer = _vectorizer(choice.min_df, choice.logarithms)
    regression = _regression(choice.c).fit(vectorizer.fit_transform(texts[:train_rows]), y[:train_rows])
    return Baseline(choice, vectorizer, regression)


def _search(
    texts: Sequence[str], y: Rows, splits: Sequence[Split], advance: Callable[[int], None], logarithms: Sequence[bool]
) -> Choice:
    scores: dict[tuple[int, float, bool], list[float]] = {one: [] for one in product(MIN_DF, C, logarithms)}
    for fit_rows, valid_rows in splits:
        for min_df, logarithm in product(MIN_DF, logarithms):
            vectorizer = _vectorizer(min_df, logarithm)
            try:
                fit_x = vectorizer.fit_transform([texts[row] for row in fit_rows])
            except ValueError:  # no term is in so many texts
                for c in C:
                    scores[min_df, c, logarithm].append(-math.inf)
                advance(len(C))
                continue
            valid_x = vectorizer.transform([texts[row] for row in valid_rows])
            for c in C:
                fitted = _regression(c).fit(fit_x, y[fit_rows])
                scores[min_df, c, logarithm].append(float(fitted.score(valid_x, y[valid_rows])))
                advance(1)
    best = max(scores, key=lambda one: float(np.mean(scores[one])))
    if math.isinf(np.mean(scores[best])):
        raise EvaluationError(
            f"tf-idf finds no word that {min(MIN_DF)} of the texts have: they are too few, or their words have no "
            "spaces between them"
        )
    return Choice(*best, float(np.mean(scores[best])))


def _digest(texts: Sequence[str], y: Rows, splits: Sequence[Split], logarithms: Sequence[bool]) -> str:
    digest = hashlib.sha256(json.dumps([MIN_DF, C, list(logarithms), *texts]).encode())
    for rows in (y, *(part for split in splits for part in split)):
        digest.update(np.ascontiguousarray(rows, dtype=np.int64).tobytes() + b"|")
    return digest.hexdigest()


def _cached(path: Path) -> Choice | None:
    """The cached choice; None if there is no file or it is damaged: the search then runs again."""
    try:
        choice = Choice(*json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return choice if choice.min_df in MIN_DF and choice.c in C and isinstance(choice.logarithms, bool) else None


def fits(splits: Sequence[Split], logarithms: Sequence[bool] = LOGARITHMS) -> int:
    """How many fits the grid search takes."""
    return len(MIN_DF) * len(C) * len(logarithms) * len(splits)


def _vectorizer(min_df: int, logarithms: bool) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - takes a second to load

    return TfidfVectorizer(ngram_range=(1, 2), min_df=min_df, sublinear_tf=logarithms)


def _regression(c: float) -> Any:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes a second to load

    return LogisticRegression(C=c, max_iter=1000)
