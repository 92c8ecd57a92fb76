"""What `neuron rnn` does: fit a recurrent classifier on a file of labelled texts, and answer the rows of another."""

import csv
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from cli.progress import texts_bar
from cli.reading_options import Reading
from model.checkpoints import checkpoint, head_store, volumes
from model.checkpoints.checkpoint import CheckpointError
from model.checkpoints.durable import replace_file
from model.checkpoints.head_store import HeadStoreError
from recurrent import published, storage
from recurrent.classifier import Label, Recurrent
from recurrent.storage import StorageError
from recurrent.targets import probabilities
from sentiment_neuron import rows
from sentiment_neuron.heads import heads_directory
from sentiment_neuron.parts import Row
from texts.faults import Fault, Faults
from texts.labelled import distinct

_DIGITS = 6


def fit_file(source: Path, out: Path, regression: bool, balanced: bool, reading: Reading, **options: Any) -> None:
    """Fit, keep and say what it is."""
    if regression and balanced:
        raise click.UsageError("--balanced is for labels, and --regression has none")
    if out.exists():
        raise click.ClickException(f"{out} exists already and is never overwritten: name another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"{out.parent} cannot be made: {error.strerror}") from error
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise click.ClickException(f"{out.parent} cannot be written: name another --out")
    from sentiment_neuron import RecurrentClassifier, RecurrentRegressor

    material = reading.labelled(source)
    if _in_quotes(material.texts):
        _tell_quotes("text")
    try:
        if regression:
            model = RecurrentRegressor(**options, verbose=True)
            model.fit(material.texts, [_number(label) for label in material.labels])
        else:
            options["class_weight"] = "balanced" if balanced else None
            labels: list[Label] = [*distinct(material.labels)]
            if len(labels) < 2:
                raise click.ClickException(f"{source}: all texts have the label {labels[0]!r}, at least two are needed")
            storage.check(out, "binary" if len(labels) == 2 else "classes", labels)
            model = RecurrentClassifier(**options, verbose=True)
            model.fit(material.texts, material.labels)
        model.save(out)
    except (ValueError, StorageError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for what, value in _described(model.model_):
        click.echo(f"{what:<14} {value}")
    click.echo(f"{'saved':<14} {out}: neuron rnn predict {out} FILE --out ANSWERS.csv")


def _number(label: str) -> float:
    try:
        return float(label)
    except ValueError as error:
        raise click.ClickException(f"label {label!r} is not a number, and --regression needs numbers alone") from error


def _described(model: Recurrent) -> list[tuple[str, str]]:
    options = model.options
    direction = "both directions" if options.bidirectional else "one direction"
    found = [
        ("labels", ", ".join(map(str, model.labels)) or "a number"),
        ("learned from", f"{model.examples:,} texts"),
        ("tokens", f"{model.vocabulary.size:,} {options.tokens}"),
        (
            "network",
            f"{options.cell}, {options.units:,} units, {options.layers} layers, {direction}, {options.pooling}",
        ),
        ("parameters", f"{model.network.size:,}"),
    ]
    best = model.best
    if best is not None:
        score = "R²" if model.kind == "value" else "accuracy"
        told = f"{score} {best.valid_score:.4f} on the {model.held_out:,} texts that chose epoch {best.number}"
        found.append(("held out", told))
    else:
        found.append(("held out", "none: too few texts of a label, or --validation-fraction 0"))
    return found


def predict_file(
    directory: Path, source: Path, out: Path, submission: str | None, device: str, reading: Reading
) -> None:
    """Answer every row."""
    try:
        model = storage.read(directory, device)
    except (StorageError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    rows.check_files(source, out)
    file = rows.RowFile(source, reading.columns.text, reading.columns.dialect)
    with texts_bar(file.total, None if submission else out) as advance:
        if submission is not None:
            names = _submit(model, file, out, submission, reading.faults, advance)
        else:
            asked = {"command": "rnn predict", "classifier": storage.sha256(directory)}
            answer = lambda texts: _results(model, texts)  # noqa: E731
            written = rows.answer_file(file, out, _kinds(model), answer, asked, reading.faults, advance)
            names = list(written.values())
    click.echo(f"{out}: {file.total:,} rows, with {', '.join(names)}")


def _kinds(model: Recurrent) -> dict[str, rows.Kind]:
    if model.kind == "value":
        return {"value": "number"}
    return {"label": "string", "score": "number", **{f"probability_{label}": "number" for label in model.labels}}


def _results(model: Recurrent, texts: list[str]) -> list[Row]:
    if model.kind == "value":
        return [{"value": round(value, _DIGITS)} for value in model.values(texts).tolist()]
    return [
        {"label": str(model.labels[int(np.argmax(row))]), "score": max(row)}
        | {f"probability_{label}": value for label, value in zip(model.labels, row, strict=True)}
        for row in model.probabilities(texts).round(_DIGITS).tolist()
    ]


def _submit(
    model: Recurrent, file: rows.RowFile, out: Path, submission: str, faults: Faults, advance: Callable[[int], None]
) -> list[str]:
    """Every row of the input is in it: one whose text cannot be used is answered as one without any words, and told."""
    identity, _, name = (part.strip() for part in submission.partition(","))
    if not identity or not name or identity == name or out.suffix.lower() != ".csv":
        raise click.UsageError(
            f"--submission is {submission!r} and --out {out}: give ID,NAME, which differ, and a .csv file"
        )
    if identity not in file.columns:
        raise click.UsageError(f"{file.path} has no column {identity!r}, its columns: {', '.join(file.columns)}")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise click.ClickException(f"{out} cannot be written: name another --out")
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow([identity, name])
    unusable, first = 0, None
    quoted = file.total > 0
    for chunk in file.chunks():
        identities = []
        for place, fault, row in zip(chunk.places, chunk.faults, file.plain(chunk.values), strict=True):
            if fault is not None:
                unusable, found = unusable + 1, Fault(str(file.path), place, fault)
                first = first or found
                if faults.strict:
                    faults.add(found)
            broken = fault is not None and file.format != "json" and len(row) < len(file.columns)
            if broken or row.get(identity) in (None, ""):
                why = fault if broken else f"it has no {identity!r}"
                raise click.ClickException(
                    f"{Fault(str(file.path), place, f'{why}, and a submission needs every row')}"
                )
            identities.append(row[identity])
        quoted = quoted and _in_quotes(identities)
        writer.writerows(zip(identities, _submitted(model, chunk.texts), strict=True))
        advance(len(chunk))
    try:
        replace_file(out, content.getvalue())
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written: {error.strerror}") from error
    if quoted:
        _tell_quotes(identity)
    if unusable:
        click.echo(f"answered as texts without words: {unusable:,} rows, the first {first}", err=True)
    return [identity, name]


def _in_quotes(values: Sequence[object]) -> bool:
    return all(isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"' for value in values)


def _tell_quotes(column: str) -> None:
    """A file of tabs has no quotes unless it is said to, so they would be learned, and answered, as a part of it."""
    click.echo(f"every {column} is in quotes: if they are no part of it, give --quote '\"'", err=True)


def _submitted(model: Recurrent, texts: list[str]) -> Sequence[object]:
    if model.kind == "value":
        return list(model.values(texts).round(_DIGITS).tolist())
    found = probabilities(model.kind, model.outputs(texts))
    if model.kind == "binary":
        return list(found[:, 1].round(_DIGITS).tolist())
    return [model.labels[number] for number in found.argmax(axis=1)]


def publish_classifier(source: Path, name: str, directory: Path, heads: Path | None) -> None:
    """Copy it to the directory of heads, and say so."""
    heads = heads_directory(directory) if heads is None else heads
    try:
        if name in checkpoint.read_manifest(volumes.resolve(directory)).heads:
            raise HeadStoreError(f"the checkpoint has a head {name!r} of its own: choose another --name")
        head_store.check_writable(heads)
        published.publish(source, heads, name)
    except (CheckpointError, HeadStoreError, StorageError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"published: {name}, in {heads}: neuron classify --head {name} TEXT, or POST /classify")
