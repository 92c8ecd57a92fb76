"""`neuron classify`, `trace` and `generate`: the model in this process, through the front door, without any server."""

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from api.schemas.requests import GenerateRequest
from cli.checkpoint_option import checkpoint_option
from cli.reported import reported
from sentiment_neuron import Neuron, heat_maps
from sentiment_neuron.requests import StreamOptions, classify_job, generate_job, trace_job

_NAMED = 60  # characters of a text by which a warning names it
_CLASSIFY_CHUNK = 1024  # texts of one job, so that a long stdin is answered as it is read
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
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@checkpoint_option
@click.option("--head", default="sentiment", show_default=True, help="The model's, or one by `neuron head fit`.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer of POST /classify.")
@reported()
def classify(texts: tuple[str, ...], directory: Path, head: str, as_json: bool) -> None:
    """Label every TEXT: a line with label, probability, sentiment and text.

    Without TEXT, stdin gives one a line; blank lines are passed over.
    """
    lines = texts or (line for line in _lines_of_stdin() if line.strip())
    jobs = (classify_job(chunk, head) for chunk in _chunks(lines, _CLASSIFY_CHUNK))
    first = next(jobs, None)  # checked before a model is loaded
    if first is None:
        raise click.UsageError("no text: name some, or give one a line on stdin")
    console = _console()
    whole: dict[str, Any] = {}
    with Neuron.load(directory) as neuron:
        for job in chain([first], jobs):
            answer = neuron.run(job)
            if as_json:
                whole = answer | {"results": [*whole.get("results", []), *answer["results"]]}
                continue
            width = max(map(len, answer["results"][0]["probabilities"]))
            for text, result in zip(job.texts, answer["results"], strict=True):
                console.print(_classified(text, result, width))
                if result["warning"] is not None:
                    click.echo(f"{heat_maps.visible(text)[:_NAMED]}: {result['warning']}", err=True)
    if as_json:
        click.echo(json.dumps(whole))


@click.command()
@click.argument("text", required=False)
@checkpoint_option
@click.option("--unit", "units", type=click.IntRange(0), multiple=True, help="May be repeated. Default: sentiment.")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page of HTML.")
@reported()
def trace(text: str | None, directory: Path, units: tuple[int, ...], page: Path | None) -> None:
    """Show the value of units after every character of TEXT, or of stdin, as a heat map.

    The sentiment unit is coloured from -1 to 1, calibrated; any other by its largest absolute value. Without colour,
    as in a pipe, the value after every word is printed.
    """
    job = trace_job(_stdin() if text is None else text, units or None)  # checked before a model is loaded
    with Neuron.load(directory) as neuron:
        traced = neuron.trace(job.text, job.units)
    heat_maps.show(_console(), traced.heat_maps)
    if page is not None:
        try:
            page.write_text(traced.html(), encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"{page} cannot be written: {error.strerror}") from error
        click.echo(f"written: {page}", err=True)


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
    console = _console()
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


def _classified(text: str, result: dict[str, Any], width: int) -> Text:
    line = Text(f"{result['label']:<{width}}", "bold")
    line.append(f"  {result['score']:6.1%}  ", "not bold")
    if result["expected_value"] is not None:
        line.append(f"{result['expected_value']:.2f}  ", "not bold")
    if result["unit_sentiment"] is not None:
        line.append(f"{result['unit_sentiment']:+.2f}", heat_maps.style(result["unit_sentiment"]))
    return line.append(f"  {heat_maps.visible(text)}", "not bold")


def _console() -> Console:
    """stdout; a line is never cut or wrapped by us, so that what a pipe gets does not depend on a width."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def _safe(text: str) -> str:
    """For a terminal: a generated escape sequence must not reach it."""
    return "\n".join(map(heat_maps.visible, text.split("\n")))


def _chunks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    remaining = iter(texts)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _stdin() -> str:
    """All of it as one text, without the newline that ends it."""
    return "\n".join(_lines_of_stdin())


def _lines_of_stdin() -> Iterator[str]:
    """Read as UTF-8 whatever the locale says."""
    stream = sys.stdin.buffer
    if stream.isatty():
        click.echo("reading the terminal; end with Ctrl-D", err=True)
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise click.ClickException(f"stdin, line {number}: not UTF-8 ({error.reason})") from error
