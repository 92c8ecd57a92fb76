"""`neuron rnn`: its options. What its commands do is in cli/recurrent_files.py, which loads torch."""

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from cli.checkpoint_option import checkpoint_option
from cli.groups import Group
from cli.heads_option import heads_option
from cli.reading_options import reading_options
from cli.reported import reported
from recurrent.options import Options

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

# Option of the network and its training -> its line of help. Kinds and defaults are those of `Options`.
_HELP = {
    "tokens": "Words in lower case, or bytes.",
    "min_df": "Texts that a word must be in to be known.",
    "max_features": "Words that are known at most.",
    "cell": "rnn: tanh without gates.",
    "embedding": "Numbers of a token.",
    "units": "Of a layer and direction.",
    "layers": "One above another.",
    "bidirectional": "Whether a second stack of layers reads from the end.",
    "pooling": "Of the hidden vectors of a text.",
    "dropout": "Of what each layer reads.",
    "steepness": "Gates are σ(steepness * a).",
    "initialization": "Of recurrent matrices.",
    "optimizer": "Which changes the weights.",
    "learning_rate": "Default: the optimizer's own.",
    "schedule": "Of the learning rate: to zero over all epochs, or none.",
    "clip": "Most norm of an update's gradient.",
    "epochs": "At most. Default: what makes 1,500 updates, but 3 to 50.",
    "patience": "Epochs without a lower loss on texts held out before it stops. Default: a quarter, 3 at least.",
    "validation_fraction": "Of the texts, held out to choose the epoch.",
    "batch_size": "Texts of an update. Default: 16, of more than 10,000 texts 32.",
    "max_tokens": "Of a text that is learned from.",
}


def _network_options(command: Any) -> Any:
    for field in reversed(fields(Options)):
        kind = get_type_hints(Options)[field.name]
        name, default = f"--{field.name.replace('_', '-')}", field.default
        if kind is bool:
            name = f"{name}/--no-{field.name}"
        elif get_origin(kind) is Literal:
            kind = click.Choice(get_args(kind))
        elif get_origin(kind) is not None:  # a number or None
            kind = next(one for one in get_args(kind) if one is not type(None))
        add = click.option(name, type=kind, default=default, show_default=default is not None, help=_HELP[field.name])
        command = add(command)
    return command


@click.group(cls=Group)
def rnn() -> None:
    """Recurrent classifiers trained from scratch on your own labels, without the language model."""


@rnn.command("fit")
@click.argument("source", metavar="FILE", type=_FILE)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New directory for the classifier.")
@click.option("--regression", is_flag=True, help="Labels are numbers, to be predicted as such.")
@click.option("--balanced", is_flag=True, help="Give rare labels as much weight as frequent ones.")
@_network_options
@click.option("--seed", "random_state", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@reading_options(label=True)
@reported()
def fit(**options: Any) -> None:
    """Fit a classifier on the labelled texts of FILE, as `sentiment_neuron.RecurrentClassifier` does."""
    from cli.recurrent_files import fit_file

    fit_file(**options)


@rnn.command("predict")
@click.argument("directory", metavar="CLASSIFIER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("source", metavar="FILE", type=_FILE)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Results beside each row: .csv, .tsv, .jsonl or .parquet.",
)
@click.option(
    "--submission",
    metavar="ID,NAME",
    help="Write two columns alone, as contests want them: the input's column ID, and NAME with the probability of the "
    "second label (of more than two the likeliest label, of a regression the number).",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@reading_options()
@reported()
def predict(**options: Any) -> None:
    """Answer every row of FILE by what `neuron rnn fit` made.

    Every row comes out once, in order, with its columns and the results or an `error`; what was stopped is continued.
    (Not so with --submission: a row whose text cannot be used is answered as one without words, and told.)
    """
    from cli.recurrent_files import predict_file

    predict_file(**options)


@rnn.command("publish")
@click.argument("source", metavar="CLASSIFIER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--name", required=True, help="What `POST /classify` and `neuron classify --head` call it.")
@checkpoint_option
@heads_option
@reported()
def publish(source: Path, name: str, directory: Path, heads: Path | None) -> None:
    """Serve a classifier beside the heads of a checkpoint: copy it to where a worker finds it.

    `neuron head list` shows it, `neuron head delete` takes it away.
    """
    from cli.recurrent_files import publish_classifier

    publish_classifier(source, name, directory, heads)
