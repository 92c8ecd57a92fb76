"""`neuron trace` and `neuron generate`: the model in this process, through the front door, without any server."""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from api.schemas.requests import GenerateRequest
from cli.checkpoint_option import checkpoint_option
from cli.console import console as output
from cli.console import on_terminal
from cli.progress import texts_bar
from cli.reading_options import Reading, reading_options
from cli.reported import reported
from heatmaps.cells import visible
from sentiment_neuron import Neuron, rows, terminal
from sentiment_neuron.parts import Row
from sentiment_neuron.requests import StreamOptions, generate_job, trace_job
from texts.faults import TextsError
from texts.reader import read_stream

_SIDE_BY_SIDE = 64  # texts of a file that are traced
_DEFAULTS = GenerateRequest.model_validate({})


def _clamps(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[int, float]:
    clamps = {}
    for value in values:
        unit, _, held = value.partition("=")
        try:
            clamps[int(unit)] = float(held)
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is not UNIT=VALUE, such as 2388=1.5") from error
    return clamps


@click.command()
@click.argument("text", required=False, metavar="[TEXT | FILE]")
@checkpoint_option
@click.option("--unit", "units", type=click.IntRange(0), multiple=True, help="May be repeated. Default: sentiment.")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page of HTML.")
@click.option("--svg", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Also write a picture.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write FILE with the values after every byte beside each row: .jsonl or .parquet.",
)
@reading_options()
@reported()
def trace(
    text: str | None,
    directory: Path,
    units: tuple[int, ...],
    page: Path | None,
    picture: Path | None,
    out: Path | None,
    reading: Reading,
) -> None:
    """Show the value of units after every character of TEXT, or of stdin, as a heat map.

    The sentiment unit is coloured from -1 to 1, calibrated; any other by its largest absolute value. Without colour,
    as in a pipe, the value after every word is printed. With --out, every row of FILE comes out once, in order, with
    its columns and the values, or an `error`; what was stopped is continued.
    """
    if out is not None:
        if text is None or page is not None or picture is not None:
            raise click.UsageError("--out goes with a FILE, and without --html and --svg")
        _trace_file(Path(text), out, directory, units, reading)
        return
    job = trace_job(_stdin(reading) if text is None else text, units or None)  # checked before a model is loaded
    with Neuron.load(directory) as neuron:
        traced = neuron.trace(job.text, job.units)
    terminal.show(output(), traced.heat_maps)
    for path, content in ((page, traced.html), (picture, traced.svg)):
        if path is not None:
            try:
                path.write_text(content(), encoding="utf-8")
            except OSError as error:
                raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error
            click.echo(f"written: {path}", err=True)


@click.command()
@click.argument("prompt", default=_DEFAULTS.prompt)
@checkpoint_option
@click.option("--sentiment", type=float, help="From -1 to 1: hold the sentiment unit there.")
@click.option(
    "--clamp",
    metavar="UNIT=VALUE",
    multiple=True,
    callback=_clamps,
    help="Hold a unit at a raw value; may be repeated and wins over --sentiment.",
)
@click.option("--length", default=_DEFAULTS.length, show_default=True, help="Bytes to generate at most.")
@click.option("--temperature", default=_DEFAULTS.temperature, show_default=True, help="0 takes the likeliest byte.")
@click.option("--top-k", default=_DEFAULTS.top_k, show_default=True, help="Choose among the k likeliest bytes.")
@click.option("--top-p", default=_DEFAULTS.top_p, show_default=True, help="... among those that make up this much.")
@click.option("--seed", type=int, help="The same seed gives the same text; drawn if left out.")
@click.option("--n", default=_DEFAULTS.n, show_default=True, help="Samples to print.")
@click.option("--best-of", type=int, help="Samples to draw; the best --n are printed.")
@click.option(
    "--rank-by",
    type=click.Choice(["likelihood", "sentiment"]),
    default=_DEFAULTS.rank_by,
    show_default=True,
    help="What is best: the likeliest, or what the head `sentiment` finds nearest to --sentiment.",
)
@click.option(
    "--stop",
    multiple=True,
    default=_DEFAULTS.stop,
    show_default="a newline",
    help="End before this; may be repeated. An empty one alone: never.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer of POST /generate.")
@reported()
def generate(directory: Path, as_json: bool, **options: Any) -> None:
    """Continue PROMPT, which may be empty.

    One sample is printed as it comes, after the prompt on a terminal and alone in a pipe.
    Several are printed at the end, the best first, each with its mean log-probability in nats a byte or, ranked by
    sentiment, with the probability that it is positive.
    """
    options["stop"] = [stop for stop in options["stop"] if stop]
    prompt = options.pop("prompt")
    job = generate_job(prompt, options)
    console = output()
    safe = _safe if console.is_terminal else str
    with Neuron.load(directory) as neuron:
        if job.best_of == 1 and job.rank_by == "likelihood" and not as_json:
            if console.is_terminal:
                console.print(Text(_safe(prompt), "dim"), end="")
            of_one: Any = {name: value for name, value in options.items() if name in StreamOptions.__annotations__}
            for text in neuron.stream(prompt, **of_one):
                click.echo(safe(text), nl=False)
            click.echo()
            return
        answer = neuron.run(job)
    if as_json:
        click.echo(json.dumps(answer))
        return
    for number, sample in enumerate(answer["results"], start=1):
        rank = f"{sample['positive']:6.1%}" if "positive" in sample else f"{sample['mean_log_probability']:+.3f}"
        click.echo(f"{number}  {rank}  {safe(sample['text'])}")


def _safe(text: str) -> str:
    """For a terminal: a generated escape sequence must not reach it."""
    return "\n".join(map(visible, text.split("\n")))


def _stdin(reading: Reading) -> str:
    """All of it as one text, without the newline that ends it. Raises TextsError for what is not of the encoding."""
    on_terminal("reading the terminal; end with Ctrl-D")
    lines: list[str] = []
    with read_stream(sys.stdin.buffer, "stdin", replace(reading.columns.dialect, format="text")) as records:
        for chunk in records.chunks([]):
            for place, line, fault in zip(chunk.places, chunk.values, chunk.faults, strict=True):
                if fault is not None:
                    raise TextsError(f"stdin, {records.place(place)}: {fault}")
                lines.append(line)
    return "\n".join(lines)


def _trace_file(path: Path, out: Path, directory: Path, units: tuple[int, ...], reading: Reading) -> None:
    from model.checkpoints import volumes
    from model.checkpoints.checkpoint import manifest_sha256

    rows.check_files(path, out, (".jsonl", ".ndjson", ".parquet"))
    source = rows.RowFile(path, reading.columns.text, reading.columns.dialect)
    with Neuron.load(directory) as neuron, ThreadPoolExecutor(_SIDE_BY_SIDE) as threads:
        chosen = units or tuple(unit for unit in [neuron.info.sentiment_unit] if unit is not None)
        if not chosen:
            raise click.UsageError(f"{directory} has no sentiment unit: name one with --unit")

        def answer(texts: list[str]) -> Sequence[Row]:
            return list(threads.map(lambda text: _values(neuron.run(trace_job(text, chosen))), texts))

        asked = {"command": "trace", "model": manifest_sha256(volumes.resolve(directory))}
        with texts_bar(source.total, out) as advance:
            results: dict[str, rows.Kind] = {_traced(unit): "numbers" for unit in chosen}
            names = rows.answer_file(source, out, results, answer, asked, reading.faults, advance)
    click.echo(f"{out}: {source.total:,} rows, with {', '.join(names.values())}")


def _values(traced: dict[str, Any]) -> Row:
    """By unit, the value after every byte."""
    columns = zip(*(step["values"] for step in traced["bytes"]), strict=True)
    return {_traced(unit): list(values) for unit, values in zip(traced["units"], columns, strict=True)}


def _traced(unit: int) -> str:
    return f"unit_{unit}"
