"""What the service answers, judged: the checkpoint's head `sentiment`, its probabilities, and the sign of its unit.

Nothing is fitted here but the baseline. Beside each set stands what the same texts cost in another form: lower-cased,
and tokenised as the old sets are (lower case, a space around every mark).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.baseline import Baseline, fit_baseline, fits
from evaluation.features import EvaluationError, Reader
from evaluation.report import Report, Table, percent
from model.heads.calibration import expected_calibration_error
from model.heads.classifier import SENTIMENT_HEAD, SENTIMENT_LABELS, Head, head_probabilities, sentiment_head
from texts.labelled import Labelled, joined

_REWRITTEN = 2000  # texts of a set that are read in another form, the first
_FEWEST = 10  # reviews of each label, for an accuracy of their source


@dataclass(frozen=True)
class Questions:
    """Texts labelled 0 (negative) and 1 (positive). sources: where each is from, if results by source are wanted."""

    name: str
    texts: Labelled
    sources: list[str] | None = None


def evaluate(reader: Reader, sets: Sequence[Questions], baseline: Baseline | None = None) -> Report:
    """baseline: tf-idf fitted on the labels that the checkpoint has learnt from. Raises EvaluationError."""
    head = sentiment_head(reader.manifest.heads)
    if head is None:
        raise EvaluationError(
            f"{reader.name} has no head {SENTIMENT_HEAD!r} of {SENTIMENT_LABELS}: publish it with one"
        )
    values = [_judged(reader, head, one, baseline) for one in sets]
    tables = [_table(values)]
    tables += [_by_source(one["name"], one["by_source"]) for one in values if one["by_source"]]
    wrong = [_wrong(one["name"], one["wrong"]) for one in values if one["wrong"]]
    return Report("answers", {"sets": values}, tables, notes=wrong)


def tfidf(reader: Reader, train: Labelled, valid: Labelled) -> Baseline:
    """Fitted to `train`, chosen on `valid`."""
    texts, rows = joined([train, valid]), len(train.texts)
    splits = [(np.arange(rows), np.arange(rows, rows + len(valid.texts)))]
    reader.progress.begin("tf-idf", fits(splits))
    return fit_baseline(texts.texts, np.array(texts.binary()), rows, splits, reader.baselines, reader.progress.advance)


def _judged(reader: Reader, head: Head, questions: Questions, baseline: Baseline | None) -> dict[str, Any]:
    texts, labels = questions.texts.texts, np.array(questions.texts.binary())
    probabilities, of_unit = _answers(reader, head, texts, questions.name)
    answers = probabilities.argmax(axis=1)
    some = slice(_REWRITTEN)
    rewritten = {}
    for form, write in _FORMS.items():
        in_form, _ = _answers(reader, head, [write(text) for text in texts[some]], f"{questions.name}, {form}")
        rewritten[form] = float((in_form.argmax(axis=1) == labels[some]).mean())
    by_tfidf = None if baseline is None else baseline.predict(texts) == labels
    right = answers == labels
    return {
        "name": questions.name,
        "texts": len(texts),
        "accuracy_head": float(right.mean()),
        "accuracy_unit": float((of_unit == labels).mean()),
        "agreement": float((of_unit == answers).mean()),
        "calibration_error": expected_calibration_error(probabilities, labels),
        "accuracy_as_they_are": float(right[some].mean()),
        **rewritten,
        "accuracy_tfidf": None if by_tfidf is None else float(by_tfidf.mean()),
        "by_source": _sources(questions.sources, labels, right, of_unit == labels, by_tfidf),
        "wrong": [texts[row] for row in np.flatnonzero(~right)] if len(texts) <= 200 else [],
    }


def _answers(reader: Reader, head: Head, texts: list[str], stage: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities by the head, (texts, 2), and 1 where the unit is positive, (texts,)."""
    cell = reader.features(texts, stage, "cell")
    features = cell if head.pooling == "cell" else reader.features(texts, stage, head.pooling)
    return head_probabilities(head, features), reader.calibration.positive(cell).astype(np.int64)


def tokenised(text: str) -> str:
    """In lower case, with a space around every mark, as the sets of Pang & Lee (2005) and SST have it."""
    return " ".join(re.findall(r"\w+(?:'\w+)?|[^\w\s]", text.lower()))


_FORMS = {"lower_cased": str.lower, "tokenised": tokenised}


def _sources(
    sources: list[str] | None,
    labels: NDArray[np.int64],
    head: NDArray[np.bool_],
    unit: NDArray[np.bool_],
    by_tfidf: NDArray[np.bool_] | None,
) -> list[dict[str, Any]]:
    """Accuracies by source, both labels weighing the same; head, unit, by_tfidf: (texts,), whether each was right."""
    found: list[dict[str, Any]] = []
    names = np.array(sources if sources is not None else [])
    for name in np.unique(names):
        parts = [(names == name) & (labels == label) for label in (0, 1)]
        if min(part.sum() for part in parts) < _FEWEST:
            continue
        one: dict[str, Any] = {"source": str(name), "texts": int(sum(part.sum() for part in parts))}
        for key, right in (("accuracy_head", head), ("accuracy_unit", unit), ("accuracy_tfidf", by_tfidf)):
            one[key] = None if right is None else float(np.mean([right[part].mean() for part in parts]))
        found.append(one)
    return found


def _table(values: list[dict[str, Any]]) -> Table:
    header = ["set", "texts", "head", "unit", "they agree", "ECE", "lower-cased", "tokenised", "tf-idf"]
    rows: list[list[object]] = [
        [
            one["name"],
            f"{one['texts']:,}",
            percent(one["accuracy_head"]),
            percent(one["accuracy_unit"]),
            percent(one["agreement"]),
            f"{one['calibration_error']:.3f}",
            _lost(one, "lower_cased"),
            _lost(one, "tokenised"),
            percent(one["accuracy_tfidf"]),
        ]
        for one in values
    ]
    caption = (
        "The head `sentiment` as it is served, and the sign of the calibrated unit. Points of accuracy that the head "
        f"loses when the texts (at most {_REWRITTEN:,} of them) are lower-cased or tokenised."
    )
    return Table(caption, header, rows)


def _lost(one: dict[str, Any], form: str) -> str:
    return f"{100 * (one['accuracy_as_they_are'] - one[form]):.1f}"


def _by_source(name: str, sources: list[dict[str, Any]]) -> Table:
    keys = ("accuracy_head", "accuracy_unit", "accuracy_tfidf")
    rows: list[list[object]] = [
        [one["source"], f"{one['texts']:,}", *(percent(one[key]) for key in keys)] for one in sources
    ]
    means = [None if sources[0][key] is None else float(np.mean([one[key] for one in sources])) for key in keys]
    rows.append(["mean of sources", f"{sum(one['texts'] for one in sources):,}", *map(percent, means)])
    caption = (
        f"{name}, by source: both labels weigh the same; sources with fewer than {_FEWEST} texts of a label left out."
    )
    return Table(caption, ["source", "texts", "head", "unit", "tf-idf"], rows)


def _wrong(name: str, texts: list[str]) -> str:
    return f"Answered wrong in {name}:\n\n" + "\n".join(f"- {' '.join(text.split())}" for text in texts)
