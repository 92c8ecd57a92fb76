"""How well a checkpoint tells sentiment, beside a tf-idf baseline: the numbers of the README's table.

    python benchmarks/sentiment.py --train T.csv --valid V.csv --test S.csv [--checkpoint DIR] [--json FILE]

The CSV files have a column `label` (0 negative, 1 positive) and one of texts. Protocol as in Radford et al. 2017,
section 4: L1 logistic regression on all units, C chosen on the validation set; one unit with a fitted threshold; the
baseline is logistic regression on tf-idf of words and pairs of words, min_df and C chosen on the same validation set.
The test set is looked at once by each.
"""

import json
import platform
from pathlib import Path
from typing import Any

import click
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from model import checkpoint
from model.folded import FoldedModel
from model.heads import accuracy, fit_l1, fit_threshold
from model.reading import read_features
from model.text import prepare
from trainer.labelled import Labelled, read_labelled

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--train", type=_FILE, required=True)
@click.option("--valid", type=_FILE, required=True)
@click.option("--test", type=_FILE, required=True)
@click.option("--checkpoint", "directory", type=click.Path(path_type=Path), default=checkpoint.SHIPPED)
@click.option("--json", "report_file", type=click.Path(path_type=Path))
def main(train: Path, valid: Path, test: Path, directory: Path, report_file: Path | None) -> None:
    loaded = checkpoint.read(checkpoint.resolve(directory))
    manifest = loaded.manifest
    sets = {name: read_labelled(path) for name, path in (("train", train), ("valid", valid), ("test", test))}
    labels = {name: part.binary() for name, part in sets.items()}
    model = FoldedModel(loaded.model)
    features = {name: read_features(model, [prepare(text) for text in part.texts]) for name, part in sets.items()}

    # Raw features, as in the paper: only so does its C mean the same.
    head = fit_l1(
        features["train"],
        labels["train"],
        features["valid"],
        labels["valid"],
        ["negative", "positive"],
        standardize=False,
    )
    report: dict[str, Any] = {
        "checkpoint": f"{manifest.name}/step-{manifest.step}",
        "bytes_seen": manifest.bytes_seen,
        "bits_per_byte": manifest.bits_per_byte,
        "test": test.name,
        "test_rows": len(labels["test"]),
        "accuracy_all": accuracy(head, features["test"], labels["test"]),
        "C": head.c,
        "nonzero": head.metrics["nonzero_units"],
        "accuracy_tfidf": _tfidf(sets, labels),
        "machine": f"{platform.machine()}, torch {torch.__version__}, {model.dtype}",
    }
    if "sentiment" in manifest.heads:
        report["accuracy_shipped_head"] = accuracy(manifest.heads["sentiment"], features["test"], labels["test"])
    if (calibration := manifest.sentiment) is not None:
        values = {name: matrix[:, calibration.unit] for name, matrix in features.items()}
        threshold, polarity, _ = fit_threshold(values["train"], labels["train"])
        report["unit"] = calibration.unit
        report["accuracy_unit"] = float(((polarity * (values["test"] - threshold) > 0) == labels["test"]).mean())
    click.echo(json.dumps(report, indent=1))
    if report_file is not None:
        report_file.write_text(json.dumps(report, indent=1) + "\n")


def _tfidf(sets: dict[str, Labelled], labels: dict[str, Any]) -> float:
    best, chosen = -1.0, 0.0
    for min_df in (1, 2, 3):
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=min_df, sublinear_tf=True)
        train = vectorizer.fit_transform(sets["train"].texts)
        valid, test = (vectorizer.transform(sets[name].texts) for name in ("valid", "test"))
        for c in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0):
            fitted = LogisticRegression(C=c, max_iter=1000).fit(train, labels["train"])
            score = float(fitted.score(valid, labels["valid"]))
            if score > best:
                best, chosen = score, float(fitted.score(test, labels["test"]))
    return chosen


if __name__ == "__main__":
    main()
