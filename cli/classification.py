"""What `neuron classify` does: labels of texts, of a stream of them, or of a file of them, without any server."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from cli.console import console, on_terminal
from cli.progress import texts_bar
from cli.reading_options import Reading
from heatmaps.cells import visible
from model.checkpoints import head_store, volumes
from model.checkpoints.checkpoint import manifest_sha256
from sentiment_neuron import Neuron, rows, terminal
from sentiment_neuron.heads import heads_directory
from sentiment_neuron.parts import Row
from sentiment_neuron.requests import classify_job
from texts.faults import Fault
from texts.preparation import clean
from texts.reader import read_stream

_NAMED = 60  # characters of a text by which a warning names it
_AT_ONCE = 1024  # texts of one job
_PLAIN = ("label", "score", "margin", "expected_value", "unit_sentiment", "unit_value", "bits_per_byte", "warning")
_WORDS = ("label", "warning")

_Asked = tuple[str, str | None]  # a text, and why it cannot be answered


def print_labels(texts: Sequence[str], directory: Path, head: str, as_json: bool, reading: Reading) -> None:
    """A line for each text, or for each line of stdin where there is none."""
    if len(texts) == 1 and _is_file(texts[0]):
        raise click.UsageError(f"{texts[0]} is a file: give --out for its rows, or its lines on stdin: < {texts[0]}")
    batches = _batches([[(text, None) for text in texts]] if texts else _of_stdin(reading))
    first = next(batches, None)
    if first is None:
        raise click.UsageError("no text: name some, or give one a line on stdin")
    if any(why is None for _, why in first):  # checked before a model is loaded
        classify_job([text for text, why in first if why is None], head)
    about: dict[str, Any] = {}
    results: list[dict[str, Any]] = []
    with Neuron.load(directory) as neuron:
        for batch in chain([first], batches):
            answer = _answered(neuron, batch, head)
            if as_json:
                about |= {name: value for name, value in answer.items() if name != "results"}
                results += answer["results"]
                continue
            _print(batch, answer["results"])
        if as_json:
            about = about or _about(neuron, head)
    if as_json:
        click.echo(json.dumps(about | {"results": results}))


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # longer than a name may be, for example
        return False


def _about(neuron: Neuron, head: str) -> dict[str, Any]:
    """What an answer says beside its results."""
    answer: dict[str, Any] = neuron.run(classify_job(["a"], head))
    return {name: value for name, value in answer.items() if name != "results"}


def _answered(neuron: Neuron, batch: list[_Asked], head: str) -> dict[str, Any]:
    """As `POST /classify`, with an object that has an `error` alone where a text cannot be answered."""
    usable = [text for text, why in batch if why is None]
    answer: dict[str, Any] = neuron.run(classify_job(usable, head)) if usable else {"results": []}
    found = iter(answer["results"])
    return {**answer, "results": [next(found) if why is None else {"error": why} for _, why in batch]}


def _print(batch: list[_Asked], results: list[dict[str, Any]]) -> None:
    output = console()
    widths = [max(map(len, result["probabilities"])) for result in results if "error" not in result]
    for (text, why), result in zip(batch, results, strict=True):
        if why is not None:
            output.print(Text(f"{'-':<{max(widths, default=1)}}  {why}"))
            continue
        output.print(_line(text, result, max(widths)))
        if result["warning"] is not None:
            click.echo(f"{visible(text)[:_NAMED]}: {result['warning']}", err=True)


def _line(text: str, result: dict[str, Any], width: int) -> Text:
    line = Text(f"{result['label']:<{width}}", "bold")
    line.append(f"  {result['score']:6.1%}  ", "not bold")
    if result["expected_value"] is not None:
        line.append(f"{result['expected_value']:.2f}  ", "not bold")
    if result["unit_sentiment"] is not None:
        line.append(f"{result['unit_sentiment']:+.2f}", terminal.style(result["unit_sentiment"]))
    return line.append(f"  {visible(text)}", "not bold")


def _of_stdin(reading: Reading) -> Iterator[list[_Asked]]:
    """Every record of stdin, as they come: a line, unless --format says otherwise. Tells those that cannot be used."""
    on_terminal("reading the terminal; end with Ctrl-D")
    asked = reading.columns.dialect
    with read_stream(sys.stdin.buffer, "stdin", replace(asked, format=asked.format or "text")) as records:
        field = records.text_field(reading.columns.text)
        for chunk in records.chunks([field]):
            found: list[_Asked] = []
            for number, text, fault in zip(chunk.places, chunk.columns[0], chunk.faults, strict=True):
                why = fault or (None if clean(text or "") else rows.EMPTY)
                place = records.place(number)
                if why is not None:
                    reading.faults.add(Fault("stdin", place, why))
                found.append((text or "", None if why is None else f"{place}: {why}"))
            yield found


def _batches(asked: Iterable[list[_Asked]]) -> Iterator[list[_Asked]]:
    for some in asked:
        yield from (some[begin : begin + _AT_ONCE] for begin in range(0, len(some), _AT_ONCE))


def write_labels(path: Path, out: Path, directory: Path, head: str, reading: Reading) -> None:
    """Every row of a file, with its results."""
    rows.check_files(path, out)
    source = rows.RowFile(path, reading.columns.text, reading.columns.dialect)
    with Neuron.load(directory) as neuron:
        labels = neuron.info.heads[head] if head in neuron.info.heads else _labels(neuron, head)
        results: dict[str, rows.Kind] = {
            **{name: "string" if name in _WORDS else "number" for name in _PLAIN},
            **{_probability(label): "number" for label in labels},
        }
        asked = {"command": "classify", "model": manifest_sha256(volumes.resolve(directory)), "head": head}
        if head not in neuron.info.heads:
            asked["fitted"] = str(head_store.fingerprint(heads_directory(directory), head))
        with texts_bar(source.total, out) as advance:
            names = rows.answer_file(
                source, out, results, lambda texts: _results(neuron, texts, head), asked, reading.faults, advance
            )
    click.echo(f"{out}: {source.total:,} rows, with {', '.join(names.values())}")


def _labels(neuron: Neuron, head: str) -> list[str]:
    """Of a head that a user fitted."""
    return list(neuron.run(classify_job(["a"], head))["results"][0]["probabilities"])


def _results(neuron: Neuron, texts: list[str], head: str) -> list[Row]:
    found = []
    for begin in range(0, len(texts), _AT_ONCE):
        for result in neuron.run(classify_job(texts[begin : begin + _AT_ONCE], head))["results"]:
            probabilities = {_probability(label): value for label, value in result["probabilities"].items()}
            found.append({name: result[name] for name in _PLAIN} | probabilities)
    return found


def _probability(label: str) -> str:
    return f"probability_{label}"
