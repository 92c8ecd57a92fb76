"""Text written with the sentiment unit held, judged by tf-idf: does it write on the side that was asked for?

Samples are drawn at sentiment +1, 0 and -1, free and after a prompt, as `neuron generate` draws them: the unit is held
at every byte, the prompt's too, and a newline ends a review. The judge is trained on labelled reviews (the paper's
readers were people) and sees prompt and continuation.

Beside the samples as they are drawn stand the best of several, ranked as `rank_by: sentiment` of POST /generate does,
by the checkpoint's head. Head and judge may have learned from the same labels, but from features that share nothing.
"""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from engine.folded import Clamps, FoldedModel
from engine.sampling import Choice, sample
from evaluation.baseline import Baseline, fit_baseline
from evaluation.baseline import fits as baseline_fits
from evaluation.features import EvaluationError, Reader, Watch
from evaluation.report import COLOURS, Report, Table, percent, plot
from evaluation.sets import Sets
from model.heads.classifier import head_probabilities
from model.texts.labelled import Labelled
from model.texts.preparation import prepare_prompt
from trainer.publishing.publish import HEAD

PROMPTS = ("", "I couldn't figure out")
SENTIMENTS = (1.0, 0.0, -1.0)

_END = ord("\n")
_SHOWN = 5  # samples of each kind in report.md; report.json has all


@torch.inference_mode()
def generate(
    model: FoldedModel,
    prompt: str,
    clamps: dict[int, float],
    samples: int,
    length: int,
    temperature: float,
    seed: int,
    watch: Watch | None = None,
) -> list[str]:
    """`samples` continuations of at most `length` bytes. clamps: unit -> value it is held at."""
    device, units = model.device, list(clamps)
    held = Clamps(
        torch.arange(samples, device=device).repeat_interleave(len(units)),
        torch.tensor(units, dtype=torch.int64, device=device).repeat(samples),
        torch.tensor([clamps[unit] for unit in units], device=device).repeat(samples),
    )
    state = model.zero_state(samples)
    for byte in prepare_prompt(prompt):
        state = model.step(torch.full((samples,), byte, device=device), state, held)
    written = torch.full((length, samples), _END, dtype=torch.int64, device=device)
    ended = torch.zeros(samples, dtype=torch.bool, device=device)
    for position in range(length):
        choice = Choice(
            seed=torch.arange(samples, device=device) + seed * samples,
            position=torch.full((samples,), position, device=device),
            temperature=torch.full((samples,), temperature, device=device),
            top_k=torch.full((samples,), 256, device=device),
            top_p=torch.ones(samples, device=device),
        )
        chosen, _ = sample(model.logits(state.hidden), choice)
        ended |= chosen == _END
        written[position] = torch.where(ended, _END, chosen)
        if bool(ended.all()):
            break
        state = model.step(chosen, state, held)
    if watch is not None:
        watch.advance(samples)
    columns = written.T.to("cpu", torch.uint8).numpy()
    return [column.tobytes().split(b"\n", 1)[0].decode("utf-8", "replace") for column in columns]


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

    Without `valid` a fifth of the training part stands in for it. best_of: how many are drawn for each sample; with 1,
    or where the checkpoint has no head, nothing is ranked.
    """
    calibration, head = reader.calibration, reader.manifest.heads.get(HEAD)
    best_of = best_of if head is not None else 1
    sets = Sets(train, valid, Labelled([], []))
    if len(sets.labels) != 2:
        raise EvaluationError(f"the judge needs two labels, negative and positive; these are {sets.labels}")
    splits, fitting = sets.splits(folds=1), sets.fitting
    y = sets.numbers(fitting)
    reader.watch.begin("training the judge", baseline_fits(splits))
    judge = fit_baseline(fitting.texts, y, len(sets.train.texts), splits, reader.baselines, reader.watch.advance)

    drawn = samples * best_of
    reader.watch.begin("writing", len(PROMPTS) * len(SENTIMENTS) * drawn)
    written = {}
    for prompt in PROMPTS:
        for sentiment in SENTIMENTS:
            clamp = {calibration.unit: calibration.value(sentiment)}
            texts = generate(reader.model, prompt, clamp, drawn, length, temperature, seed, reader.watch)
            written[prompt, sentiment] = [prompt + text for text in texts]

    kinds: list[dict[str, Any]] = []
    for (prompt, sentiment), texts in written.items():
        kind = {"prompt": prompt, "sentiment": sentiment, **_judged(judge, texts[::best_of], sentiment)}
        if head is not None and best_of > 1:
            features = reader.features(texts, "reading what was written", head.pooling)
            away = np.abs(head_probabilities(head, features)[:, 1] - (1 + sentiment) / 2).reshape(samples, best_of)
            best = np.arange(0, drawn, best_of) + away.argmin(axis=1)
            kind["ranked"] = _judged(judge, [texts[number] for number in best], sentiment)
        kinds.append(kind)
    values: dict[str, Any] = {
        "accuracy_judge": judge.accuracy,
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
    return Report("generation", values, [table], {"generation": _figure(kinds, best_of)}, notes=_shown(kinds, best_of))


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
