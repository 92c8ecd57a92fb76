"""Text written with the sentiment unit held, judged by tf-idf: does it write on the side that was asked for?

Samples are drawn at sentiment +1, 0 and -1, free and after a prompt, as `neuron generate` draws them: the unit is held
at every byte, the prompt's too, and a newline ends a review. The judge is trained on labelled reviews (the paper's
readers were people) and sees prompt and continuation.

The samples are judged as they are drawn, and again the best of every several, ranked by the checkpoint's head as
`rank_by: sentiment` of POST /generate ranks. Head and judge may have learned from the same labels, but on features that
share nothing.
"""

from itertools import product
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from engine.plans import mean_log_probability, rank_by_sentiment
from engine.rows import RowRequest, RowResult, Sampling
from evaluation.baseline import Baseline, fit_baseline
from evaluation.baseline import fits as baseline_fits
from evaluation.features import EvaluationError, Features, Reader
from evaluation.report import COLOURS, Report, Table, percent, plot
from evaluation.rows import run_rows
from evaluation.sets import Sets
from model.heads.classifier import Head, head_probabilities, sentiment_head
from texts.labelled import Labelled
from texts.preparation import prepare_prompt

PROMPTS = ("", "I couldn't figure out")
SENTIMENTS = (1.0, 0.0, -1.0)

_SHOWN = 5  # samples of each kind in report.md; report.json has all


def sample_requests(
    prompt: str, clamps: dict[int, float], samples: int, length: int, temperature: float, seed: int
) -> list[RowRequest]:
    """`samples` continuations of at most `length` bytes. clamps: unit -> value it is held at.

    Sample i of seed s draws with seed s * samples + i (engine/sampling.py), so the same arguments give the same texts.
    """
    return [
        RowRequest(
            prepare_prompt(prompt),
            generate=length,
            sampling=Sampling(temperature, seed=seed * samples + index),
            stop=(b"\n",),
            clamps=clamps,
        )
        for index in range(samples)
    ]


def evaluate(
    reader: Reader,
    train: Labelled,
    valid: Labelled | None,
    samples: int,
    length: int,
    temperature: float,
    seed: int,
    best_of: int = 1,
) -> Report:
    """train, valid: of the judge; labels are two, the second in order being the positive.

    Without `valid`, a fifth of the training part replaces it. best_of: how many are drawn for each sample; with 1,
    or where the checkpoint has no head of sentiment, nothing is ranked. Raises EvaluationError.
    """
    calibration, head = reader.calibration, sentiment_head(reader.manifest.heads)
    unranked = []
    if head is None and best_of > 1:
        best_of, unranked = 1, [f"{reader.name} has no head of sentiment, so nothing is ranked."]
    sets = Sets(train, valid, Labelled([], []))
    if len(sets.labels) != 2:
        raise EvaluationError(f"the judge needs two labels, negative and positive; these are {sets.labels}")
    splits, fitting = sets.splits(folds=1), sets.fitting
    y = sets.numbers(fitting)
    reader.progress.begin("training the judge", baseline_fits(splits))
    judge = fit_baseline(fitting.texts, y, len(sets.train.texts), splits, reader.baselines, reader.progress.advance)

    asked, drawn = list(product(PROMPTS, SENTIMENTS)), samples * best_of
    reader.progress.begin("writing", len(asked) * drawn)
    requests: list[RowRequest] = []
    for prompt, sentiment in asked:
        clamps = {calibration.unit: calibration.value(sentiment)}
        requests += sample_requests(prompt, clamps, drawn, length, temperature, seed)
    written = run_rows(reader.model, requests, reader.progress)

    kinds = []
    for number, (prompt, sentiment) in enumerate(asked):
        of_kind = written[number * drawn : (number + 1) * drawn]
        texts = [prompt + row.text for row in of_kind]
        kind = {"prompt": prompt, "sentiment": sentiment, **_judged(judge, texts[::best_of], sentiment)}
        if head is not None and best_of > 1:
            features = reader.features(texts, "reading the samples", head.pooling)
            best = _best(head, features, of_kind, sentiment, best_of)
            kind["ranked"] = _judged(judge, [texts[index] for index in best], sentiment)
        kinds.append(kind)
    values: dict[str, Any] = {
        "accuracy_judge": judge.choice.accuracy,
        "on_asked_side": _on_asked_side(kinds),
        "on_asked_side_ranked": _on_asked_side([kind["ranked"] for kind in kinds]) if best_of > 1 else None,
        "best_of": best_of,
        "samples": samples,
        "length": length,
        "temperature": temperature,
        "seed": seed,
        "unit": calibration.unit,
        "kinds": kinds,
        "rows": {"train": len(train.texts), "valid": len(valid.texts) if valid else 0},
    }
    rows: list[list[object]] = [
        [
            kind["prompt"] or "(free)",
            _signed(kind["sentiment"]),
            *(percent(one[name]) for one in _versions(kind) for name in ("judged_positive", "on_asked_side")),
            kind["distinct"],
        ]
        for kind in kinds
    ]
    columns = ["judged positive", "on the asked side"]
    caption = (
        f"{samples} samples each of up to {length} bytes at temperature {temperature:g}, unit {calibration.unit} held. "
        f"At +1 and -1 together {percent(values['on_asked_side'])} are on the asked side; the judge is right on "
        f"{percent(values['accuracy_judge'])} of the texts that it was chosen on."
    )
    if best_of > 1:
        columns += [f"best of {best_of}: {name}" for name in columns]
        caption += f" Of the best of {best_of} by the checkpoint's head {percent(values['on_asked_side_ranked'])} are."
    table = Table(caption, ["prompt", "sentiment", *columns, "distinct"], rows)
    return Report(
        "generation", values, [table], {"generation": _figure(kinds, best_of)}, notes=unranked + _shown(kinds, best_of)
    )


def _best(head: Head, features: Features, rows: list[RowResult], sentiment: float, best_of: int) -> list[int]:
    """The indexes of the best row by `head` of every `best_of` rows, in order. features: (rows, units)."""
    positive = head_probabilities(head, features)[:, 1].tolist()
    likelihoods = [mean_log_probability(row) for row in rows]
    best = []
    for begin in range(0, len(rows), best_of):
        several = slice(begin, begin + best_of)
        best.append(begin + rank_by_sentiment(positive[several], likelihoods[several], sentiment)[0])
    return best


def _judged(judge: Baseline, texts: list[str], sentiment: float) -> dict[str, Any]:
    positive = judge.predict(texts) == 1
    share = float(positive.mean())
    return {
        "judged_positive": share,
        "on_asked_side": {1.0: share, -1.0: 1 - share}.get(sentiment),
        "distinct": len(set(texts)),
        "texts": [{"text": text, "positive": bool(one)} for text, one in zip(texts, positive, strict=True)],
    }


def _on_asked_side(judged: list[dict[str, Any]]) -> float:
    return float(np.mean([one["on_asked_side"] for one in judged if one["on_asked_side"] is not None]))


def _versions(kind: dict[str, Any]) -> list[dict[str, Any]]:
    """As drawn, and ranked if it was."""
    return [kind, kind["ranked"]] if "ranked" in kind else [kind]


def _shown(kinds: list[dict[str, Any]], best_of: int) -> list[str]:
    notes = []
    for kind in kinds:
        for how, one in zip(("", f", best of {best_of}"), _versions(kind), strict=False):
            lines = [f"- {'+' if text['positive'] else '-'} {_quoted(text['text'])}" for text in one["texts"][:_SHOWN]]
            about = f"Sentiment {_signed(kind['sentiment'])}, {kind['prompt'] or 'free'}{how}; judged + or -:"
            notes.append("\n".join([about, "", *lines]))
    return notes


def _signed(sentiment: float) -> str:
    return f"{sentiment:+g}" if sentiment else "0"


def _quoted(text: str) -> str:
    """As code, which Markdown leaves as it is."""
    return "`` " + " ".join(text.replace("`", "'").split()) + " ``"


def _figure(kinds: list[dict[str, Any]], best_of: int) -> Figure:
    figure, axes = plot("sentiment asked for", "share judged positive")
    for colour, prompt in zip(COLOURS, PROMPTS, strict=False):
        of_prompt = [kind for kind in kinds if kind["prompt"] == prompt]
        versions = zip(*map(_versions, of_prompt), strict=True)
        for how, style, judged in zip(("", f", best of {best_of}"), ("-", "--"), versions, strict=False):
            shares = [one["judged_positive"] for one in judged]
            axes.plot(SENTIMENTS, shares, style, marker="o", color=colour, label=(prompt or "free") + how)
    axes.set_ylim(0, 1)
    axes.set_xticks(SENTIMENTS)
    axes.legend(frameon=False)
    return figure
