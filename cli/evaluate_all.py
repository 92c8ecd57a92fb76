"""`neuron evaluate all`: every protocol on the paper's sets, as one page with a table beside the paper's numbers.

It runs the commands of `cli/evaluate.py`, and adds itself to their group.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cli.checkpoint_option import checkpoint_option
from cli.evaluate import evaluate as evaluate
from cli.evaluate_options import DIRECTORY
from cli.protocol import command_line, read_report
from evaluation import summary
from evaluation.features import EvaluationError
from evaluation.report import JSON, MARKDOWN, embedded
from model.checkpoints import volumes
from model.checkpoints.checkpoint import CheckpointError, manifest_sha256
from model.checkpoints.durable import replace_file
from texts.faults import TextsError
from texts.sets import IMDB, SST, find_parts

RESULTS = "results.md"

_TEXTS = (
    "This is one of the best books I have read in years. The ending, though, is a disappointment.",
    "It broke after two days and support never answered. The replacement works beautifully and I love it.",
    "I wanted to like this film. The cast is wonderful, the music is great, and it is still a waste of time.",
)


@evaluate.command("all")
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of the CSV files of SST and IMDB.",
)
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory of all reports."
)
@click.option(
    "--page",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"File of that page. Default: {RESULTS} in --out.",
)
@click.option("--corpus", type=DIRECTORY, help="As of `answers`: labelled reviews that it holds out.")
@click.option(
    "--set", "sets", multiple=True, metavar="NAME=FILE", help="As of `answers`, beside the tests of SST and IMDB."
)
@click.option("--beside", type=DIRECTORY, help="Reports of another checkpoint, for a column of the table.")
@click.option("--draws", type=click.IntRange(2), default=100, show_default=True, help="Of `curve`.")
@click.option("--samples", type=click.IntRange(1), default=200, show_default=True, help="Of `generation`.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="As of the other commands.")
@checkpoint_option
@click.pass_context
def all_(
    context: click.Context,
    data: Path,
    out: Path,
    page: Path | None,
    corpus: Path | None,
    sets: tuple[str, ...],
    beside: Path | None,
    draws: int,
    samples: int,
    cache: Path | None,
    directory: Path,
) -> None:
    """Every protocol on SST and IMDB, and a page of them with a table beside the paper's numbers.

    Runs the other commands, and prints each before it starts. A command whose report of the same checkpoint is already
    in --out, and newer than all files that are read, is not run again, so an interrupted run continues. DIR holds the
    files that `sst` and `imdb` need. Reports in folders of --out named `growth`, `showdown`, `showdown-reviews` or
    `tricks` go into the page as well, if they are of no other checkpoint.
    """
    page = page or out / RESULTS
    compared = None if beside is None else _reports(beside)
    if compared == {}:
        raise click.UsageError(f"--beside {beside} holds no reports")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"{page.parent} cannot be made: {error.strerror}") from error
    try:
        of_imdb, of_sst = find_parts(data, IMDB), find_parts(data, SST)
        imdb_train = str(of_imdb["train"])
        sst = [word for part, path in of_sst.items() for word in (f"--{part}", str(path))]
        manifest = manifest_sha256(volumes.resolve(directory))
    except (TextsError, CheckpointError) as error:
        raise click.ClickException(str(error)) from error
    answers = [word for one in (f"SST={of_sst['test']}", f"IMDB={of_imdb['test']}", *sets) for word in ("--set", one)]
    answers += [] if corpus is None else ["--corpus", str(corpus)]
    read = [*of_imdb.values(), *of_sst.values(), *([] if corpus is None else corpus.iterdir())]
    read += [path for one in sets if (path := Path(one.partition("=")[2])).is_file()]
    newest = max(path.stat().st_mtime for path in read)
    protocols: dict[str, Sequence[str]] = {
        "answers": ("answers", *answers),
        "sst": ("sst", "--data", str(data)),
        "sst-mean": ("sst", "--data", str(data), "--pooling", "mean"),
        "units": ("units", *sst),
        "lengths": ("lengths", *sst),
        "heatmap": ("heatmap", *_TEXTS),
        "shifts": ("shifts", imdb_train),
        "generation": ("generation", "--train", imdb_train, "--samples", str(samples)),
        "histogram": ("histogram", imdb_train),
        "imdb": ("imdb", "--data", str(data)),
        "imdb-mean": ("imdb", "--data", str(data), "--pooling", "mean"),
        "curve": ("curve", *sst, "--draws", str(draws)),
    }
    where = [] if cache is None else ["--cache", str(cache)]
    if context.get_parameter_source("directory") is ParameterSource.COMMANDLINE:
        where += ["--checkpoint", str(directory)]
    for name, (command, *words) in protocols.items():
        protocol = evaluate.commands[command]
        with protocol.make_context(command, [*words, *where, "--out", str(out / name)], context.parent) as called:
            line, path = command_line(called), out / name / JSON
            report = _report(path)
            old = not report or path.stat().st_mtime < newest
            if old or report.get("command") != line or report.get("manifest_sha256") != manifest:
                click.echo(f"$ {line}")
                protocol.invoke(called)
    reports = _reports(out)
    others = [name for name, report in reports.items() if report.get("manifest_sha256", manifest) != manifest]
    for name in others:
        click.echo(f"left out: {out / name} is of another checkpoint", err=True)
        del reports[name]
    replace_file(page, _page(out, reports, page.parent, compared))
    table = summary.summarize(reports, compared)
    click.echo(f"{table.markdown()}\n\n{page}: this table, and every report")


def results_page(out: Path, place: Path, beside: Path | None = None) -> str:
    """The page of all reports that lie in `out`, as Markdown. place: the directory of the page.

    beside: reports of another checkpoint, for a column of the table.
    """
    return _page(out, _reports(out), place, None if beside is None else _reports(beside))


def _page(out: Path, reports: summary.Reports, place: Path, beside: summary.Reports | None) -> str:
    bodies = {
        name: embedded((out / name / MARKDOWN).read_text(), os.path.relpath(out / name, place)) for name in reports
    }
    return summary.page(reports, bodies, beside)


def _reports(out: Path) -> dict[str, dict[str, Any]]:
    return {name: report for name in summary.SECTIONS if (report := _report(out / name / JSON))}


def _report(path: Path) -> dict[str, Any]:
    """The report; empty where it is missing or cannot be read."""
    try:
        return read_report(path)
    except (OSError, EvaluationError):
        return {}
