"""`neuron featurize`: the feature vectors of a file of texts, by the off-line batch path, without any server."""

from pathlib import Path

import click
import torch

from cli.checkpoint_option import checkpoint_option
from cli.pooling_option import pooling_option
from cli.progress import texts_bar
from cli.reported import reported
from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import checkpoint, volumes
from model.checkpoints.checkpoint import CheckpointError
from model.heads.pooling import Pooling
from model.texts.preparation import prepare
from sentiment_neuron import files


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
@reported()
def featurize(source: Path, out: Path, directory: Path, pooling: Pooling, dtype: str, column: str, rows: int) -> None:
    """Write the feature vector of every text of INPUT: text with one a line, CSV with a header, or Parquet.

    Text and CSV may be packed: .txt, .txt.gz, .txt.xz, .csv, .csv.gz, .csv.xz, .parquet. Row i of the output belongs
    to text i of the input. A blank text keeps its row: it is read as the preparation of an empty one. OUT appears
    whole, in the place of what was there, or not at all.
    """
    texts = files.TextFile(source, column)
    total = texts.count()
    files.check_output(out, source, column)
    try:
        weights = checkpoint.read(volumes.resolve(directory)).model
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = FoldedModel(weights, device, None if dtype == "auto" else getattr(torch, dtype))
    with texts_bar(total) as advance, files.features_file(out, column, total, model.units) as write:
        for chunk in texts.chunks():
            write(chunk, read_features(model, [prepare(text) for text in chunk], pooling, rows, advance))
    click.echo(f"{out}: {total:,} texts x {model.units:,} units")
