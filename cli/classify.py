"""`neuron classify`: its options. What it does is in cli/classification.py, which loads what runs a model."""

from pathlib import Path

import click

from cli.checkpoint_option import checkpoint_option
from cli.reading_options import Reading, reading_options
from cli.reported import reported


@click.command()
@click.argument("texts", nargs=-1, metavar="[TEXT]... | FILE")
@checkpoint_option
@click.option(
    "--head", default="sentiment", show_default=True, help="The model's, or one by `neuron head fit` or `rnn publish`."
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer of POST /classify.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write FILE with the results beside each row: .csv, .tsv, .jsonl or .parquet.",
)
@reading_options()
@reported()
def classify(
    texts: tuple[str, ...], directory: Path, head: str, as_json: bool, out: Path | None, reading: Reading
) -> None:
    """Label every TEXT: a line with label, probability, sentiment and text.

    Of labels that are numbers their mean, weighted by probability, stands before the sentiment. Without TEXT, stdin
    gives one a line; a line that cannot be used keeps its place. With --out, every row of FILE comes out once, in
    order, with its columns and the results or an `error`; what was stopped is continued.
    """
    from cli.classification import print_labels, write_labels

    if out is None:
        print_labels(texts, directory, head, as_json, reading)
    elif as_json:
        raise click.UsageError("--json is for stdout; --out writes what its name says, such as .jsonl")
    elif len(texts) == 1:
        write_labels(Path(texts[0]), out, directory, head, reading)
    else:
        raise click.UsageError(f"--out goes with one FILE, not with {len(texts)}")
