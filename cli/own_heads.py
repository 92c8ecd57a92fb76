"""What `neuron head` does: fit classifiers of your own on labelled texts, list and delete them, without a server.

They are kept where a worker of the same volume finds them.
"""

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from cli.progress import texts_bar
from cli.reading_options import Reading
from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import checkpoint, head_store, volumes
from model.checkpoints.checkpoint import CheckpointError
from model.checkpoints.head_store import HeadStoreError
from model.checkpoints.stored_head import StoredHead, stored_head
from model.heads.checks import HeadError
from model.heads.cross_validation import fit_cv, fit_unit_cv
from model.heads.pooling import Pooling
from recurrent import published
from sentiment_neuron.heads import heads_directory
from sentiment_neuron.requests import fit_body
from texts.labelled import distinct, numbered
from texts.preparation import prepare


def fit_head(
    source: Path,
    name: str,
    unit_only: bool,
    pooling: Pooling | None,
    directory: Path,
    heads: Path | None,
    rows: int,
    as_json: bool,
    reading: Reading,
) -> None:
    """Fit one, keep it and say what it is."""
    heads = heads_directory(directory) if heads is None else heads
    try:
        material = reading.labelled(source)
        body = fit_body(name, material.texts, material.labels, {"unit_only": unit_only, "pooling": pooling})
        head_store.check_writable(heads)
        if name in head_store.names(heads):
            raise HeadStoreError(
                f"{heads} holds a head {name!r} already: `neuron head delete {name}`, or another --name"
            )
        loaded = checkpoint.read(volumes.resolve(directory))
        if name in loaded.manifest.heads:
            raise HeadStoreError(f"the checkpoint has a head {name!r} of its own: choose another --name")
        model = FoldedModel(loaded.model, "cuda" if torch.cuda.is_available() else "cpu")
        features = _read(model, material.texts, body.features, rows)
        labels = distinct(example.label for example in body.examples)
        y = np.array(numbered(material.labels, labels), dtype=np.int64)
        fitted = fit_unit_cv(features, y) if unit_only else fit_cv(features, y, len(labels))
        stored = stored_head(name, loaded.manifest, fitted, labels, body.features, len(y), time.time(), made_by="")
        with head_store.alone_in(heads):
            head_store.create(heads, stored)
    except (CheckpointError, HeadError, HeadStoreError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        model_name = {"model": {"name": stored.checkpoint, "step": stored.step}}
        click.echo(json.dumps(model_name | stored.report()))
        return
    for what, value in _described(stored):
        click.echo(f"{what:<14} {value}")


def list_heads(directory: Path, heads: Path | None, as_json: bool) -> None:
    """Say which there are."""
    heads = heads_directory(directory) if heads is None else heads
    found: list[dict[str, Any]] = []
    try:
        manifest = checkpoint.read_manifest(volumes.resolve(directory))
        for name in sorted(head_store.names(heads)):
            try:
                if head_store.is_recurrent(heads, name):
                    found.append(published.describe(heads, name).listed() | {"usable": True})
                    continue
                stored = head_store.read(heads, name)
            except HeadStoreError as error:
                click.echo(f"left out: {error}", err=True)
                continue
            found.append(stored.listed() | {"usable": stored.belongs_to(manifest)})
    except (CheckpointError, HeadStoreError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({"heads": found}))
        return
    for report in found:
        of = "recurrent" if report["checkpoint"] is None else "{name} step {step}".format(**report["checkpoint"])
        usable = "" if report["usable"] else ", not this checkpoint"
        click.echo(f"{report['name']:<20} {_accuracy(report) + ',':<33} {len(report['labels'])} labels, {of}{usable}")


def delete_head(name: str, directory: Path, heads: Path | None) -> None:
    """Delete one, and say so."""
    heads = heads_directory(directory) if heads is None else heads
    try:
        head_store.fingerprint(heads, name)  # without one there is nothing to lock
        with head_store.alone_in(heads):
            head_store.delete(heads, name)
    except (HeadStoreError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"deleted: {name}")


def _read(model: FoldedModel, texts: list[str], pooling: Pooling, rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    with texts_bar(len(texts)) as advance:
        return read_features(model, [prepare(text) for text in texts], pooling, rows, advance)


def _described(stored: StoredHead) -> list[tuple[str, str]]:
    """(what, value) of every line that `fit` prints."""
    report = stored.report()
    heaviest = ", ".join(
        f"{unit['unit']} ({', '.join(f'{weight:+.3g}' for weight in unit['weights'])})" for unit in report["top_units"]
    )
    return [
        ("name", stored.name),
        ("checkpoint", f"{stored.checkpoint} step {stored.step}"),
        ("labels", ", ".join(stored.head.labels)),
        ("examples", f"{stored.examples:,}"),
        ("features", stored.head.pooling),
        ("accuracy", _accuracy(report)),
        ("C", "none: one unit and a threshold" if stored.head.c is None else f"{stored.head.c:g}"),
        ("nonzero units", f"{report['nonzero_units']:,}"),
        ("top units", heaviest or "none: it names the most frequent label"),
    ]


def _accuracy(report: dict[str, Any]) -> str:
    if report["accuracy"] is None:
        return "not known: nothing was held out"
    low, high = report["accuracy_interval"]
    how = f"{report['folds']} folds" if report["folds"] else "on texts that chose its epoch"
    return f"{report['accuracy']:.1%} ({low:.1%} to {high:.1%}), {how}"
