"""`neuron classify`, `trace`, `generate` and `featurize`: the model in this process, without any server.

The first three check what they are given as the gateway does, make the job that it would make, and run it on the
engine as a worker does. `featurize` reads whole files through the off-line batch path instead.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from api.schemas.requests import ClassifyRequest, GenerateRequest, TraceRequest
from cli.checkpoint_option import checkpoint_option, heads_directory
from cli.pooling_option import pooling_option
from contract.jobs import AnyJob, ClassifyJob, GenerateJob, TraceJob
from engine import serving
from engine.engine import Engine
from engine.execute import execute
from engine.folded import FoldedModel
from engine.plans import JobFailed
from engine.reading import read_features
from engine.serving import ServedModel
from model.checkpoints import checkpoint, volumes
from model.checkpoints.checkpoint import CheckpointError
from model.heads.pooling import Pooling
from model.texts.preparation import prepare
from sentiment_neuron import files as batch
from sentiment_neuron import heat_maps as heatmap
from worker.known_heads import KnownHeads

BodyT = TypeVar("BodyT", bound=BaseModel)

_ROWS = 64  # side by side in the engine: the batch that packed weights are tuned for (engine/folded.py)
_CLASSIFY_CHUNK = 1024  # texts of one job, so that a long stdin is answered as it is read
_BASE: dict[str, Any] = {"id": "neuron-command-line", "timeout_s": math.inf}
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
def classify(texts: tuple[str, ...], directory: Path, head: str, as_json: bool) -> None:
    """Label every TEXT: a line with label, probability, sentiment and text.

    Without TEXT, stdin gives one a line; blank lines are passed over.
    """
    lines = texts or (line for line in _lines_of_stdin() if line.strip())
    chunks = _chunks(lines, _CLASSIFY_CHUNK)
    bodies = (valid(ClassifyRequest, texts=chunk, head=head) for chunk in chunks)
    first = next(bodies, None)  # checked before a model is loaded
    if first is None:
        raise click.UsageError("no text: name some, or give one a line on stdin")
    console = _console()
    whole: dict[str, Any] = {}
    with _loaded(directory) as model:
        for body in chain([first], bodies):
            job = ClassifyJob(**_BASE, texts=body.all_texts(), head=body.head)
            answer = model.run(job)
            if as_json:
                whole = answer | {"results": [*whole.get("results", []), *answer["results"]]}
                continue
            width = max(map(len, answer["results"][0]["probabilities"]))
            for text, result in zip(job.texts, answer["results"], strict=True):
                console.print(_classified(text, result, width))
    if as_json:
        click.echo(json.dumps(whole))


@click.command()
@click.argument("text", required=False)
@checkpoint_option
@click.option("--unit", "units", type=click.IntRange(0), multiple=True, help="May be repeated. Default: sentiment.")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page of HTML.")
def trace(text: str | None, directory: Path, units: tuple[int, ...], page: Path | None) -> None:
    """Show the value of units after every character of TEXT, or of stdin, as a heat map.

    The sentiment unit is coloured from -1 to 1, calibrated; any other by its largest absolute value. Without colour,
    as in a pipe, the value after every word is printed.
    """
    body = valid(TraceRequest, text=_stdin() if text is None else text, units=list(dict.fromkeys(units)) or None)
    with _loaded(directory) as model:
        answer = model.run(TraceJob(**_BASE, text=body.text, units=body.units))
    maps = heatmap.heat_maps(body.text, answer, model.served.info.sentiment_unit)
    heatmap.show(_console(), maps)
    if page is not None:
        name = "{name}, step {step}".format(**answer["model"])
        try:
            page.write_text(heatmap.html_page(body.text, maps, name), encoding="utf-8")
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
def generate(directory: Path, as_json: bool, **options: Any) -> None:
    """Continue PROMPT, which may be empty.

    One sample is printed as it comes, after the prompt on a terminal and alone in a pipe.
    Several are printed at the end, the best first, each with its mean log-probability in nats a byte or, ranked by
    sentiment, with the probability that it is positive.
    """
    options["stop"] = [stop for stop in options["stop"] if stop]
    body = valid(GenerateRequest, **options)
    stream = body.samples == 1 and body.rank_by == "likelihood" and not as_json
    job = GenerateJob(**_BASE, **body.job_fields() | {"stream": stream})
    console = _console()
    safe = _safe if console.is_terminal else str
    with _loaded(directory) as model:
        if job.stream:
            if console.is_terminal:
                console.print(Text(_safe(body.prompt), "dim"), end="")
            model.run(job, lambda _index, text: click.echo(safe(text), nl=False))
            click.echo()
            return
        answer = model.run(job)
    if as_json:
        click.echo(json.dumps(answer))
        return
    for number, sample in enumerate(answer["results"], start=1):
        rank = f"{sample['positive']:6.1%}" if "positive" in sample else f"{sample['mean_log_probability']:+.3f}"
        click.echo(f"{number}  {rank}  {safe(sample['text'])}")


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="A .npy or .parquet file.")
@checkpoint_option
@pooling_option
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of the products; auto is the fastest of the device. The features are float32.",
)
@click.option("--column", default="text", show_default=True, help="Of the texts; the output's in Parquet, too.")
@click.option("--rows", type=click.IntRange(1), default=128, show_default=True, help="Texts read side by side.")
def featurize(source: Path, out: Path, directory: Path, pooling: Pooling, dtype: str, column: str, rows: int) -> None:
    """Write the feature vector of every text of INPUT: text with one a line, CSV with a header, or Parquet.

    Text and CSV may be packed: .txt, .txt.gz, .txt.xz, .csv, .csv.gz, .csv.xz, .parquet. Row i of the output belongs
    to text i of the input. A blank text keeps its row: it is read as the preparation of an empty one. OUT appears
    whole, in the place of what was there, or not at all.
    """
    texts = batch.TextFile(source, column)
    total = texts.count()
    batch.check_output(out, source, column)
    try:
        weights = checkpoint.read(volumes.resolve(directory)).model
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = FoldedModel(weights, device, None if dtype == "auto" else getattr(torch, dtype))
    columns = (TextColumn("texts"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar,
        batch.features_file(out, column, total, model.units) as write,
    ):
        task = bar.add_task("", total=total)
        for chunk in texts.chunks():
            prepared = [prepare(text) for text in chunk]
            write(chunk, read_features(model, prepared, pooling, rows, lambda n: bar.advance(task, n)))
    click.echo(f"{out}: {total:,} texts x {model.units:,} units")


@dataclass(frozen=True)
class _Loaded:
    """A model and an engine that runs it."""

    served: ServedModel
    engine: Engine
    heads: KnownHeads

    def run(self, job: AnyJob, on_text: Callable[[int, str], None] = lambda *_: None) -> dict[str, Any]:
        """The job's result. on_text hears (index of the sample, whole characters) if the job streams."""
        try:
            return execute(job, self.served, self.engine, on_text, self.heads.find)
        except JobFailed as error:
            raise click.ClickException(str(error)) from error


@contextmanager
def _loaded(directory: Path) -> Iterator[_Loaded]:
    try:
        served = serving.load(volumes.resolve(directory), "auto", "auto", _ROWS)
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    engine = Engine(max_rows=_ROWS)
    engine.start()
    try:
        yield _Loaded(served, engine, KnownHeads(heads_directory(directory)))
    finally:
        engine.close()


def valid(body: type[BodyT], **fields: Any) -> BodyT:
    """The request that a client of the service would have sent. What the service refuses is refused here."""
    try:
        return body(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise click.ClickException(f"{where}: {reason}" if where else reason) from error


def _classified(text: str, result: dict[str, Any], width: int) -> Text:
    line = Text(f"{result['label']:<{width}}", "bold")
    line.append(f"  {result['score']:6.1%}  ", "not bold")
    if result["sentiment"] is not None:
        line.append(f"{result['sentiment']:+.2f}", heatmap.style(result["sentiment"]))
    return line.append(f"  {heatmap.visible(text)}", "not bold")


def _console() -> Console:
    """stdout; a line is never cut or wrapped by us, so that what a pipe gets does not hang on a width."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def _safe(text: str) -> str:
    """For a terminal: a generated escape sequence must not reach it."""
    return "\n".join(map(heatmap.visible, text.split("\n")))


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
