"""`neuron featurize`: the feature vectors of a file of texts, by the off-line batch path, without any server."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.checkpoint_option import checkpoint_option
from cli.pooling_option import pooling_option
from cli.progress import texts_bar
from cli.reading_options import Reading, reading_options
from cli.reported import reported
from texts.preparation import prepare

if TYPE_CHECKING:
    import numpy as np

    from model.heads.pooling import Pooling

_FEATURES = "features"
_WRITTEN = (".npy", ".parquet", ".jsonl", ".ndjson")


@click.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help=f"{', '.join(_WRITTEN)}.")
@checkpoint_option
@pooling_option
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of the products; auto is the fastest of the device. The features are float32.",
)
@click.option("--rows", type=click.IntRange(1), default=128, show_default=True, help="Texts read side by side.")
@reading_options()
@reported()
def featurize(
    source: Path, out: Path, directory: Path, pooling: "Pooling", dtype: str, rows: int, reading: Reading
) -> None:
    """Write the feature vector of every text of FILE.

    Row i of the output belongs to row i of the input; one that cannot be used has features of NaN in .npy, and an
    `error` in place of features elsewhere, where the columns of the input are kept. What was stopped is continued.
    """
    import torch

    from engine.folded import FoldedModel
    from engine.reading import read_features
    from model.checkpoints import checkpoint, volumes
    from model.checkpoints.checkpoint import CheckpointError
    from sentiment_neuron import rows as rows_of
    from sentiment_neuron.arrays import feature_rows

    rows_of.check_files(source, out, _WRITTEN)
    texts = rows_of.RowFile(source, reading.columns.text, reading.columns.dialect)
    try:
        loaded = checkpoint.read(volumes.resolve(directory))
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = FoldedModel(loaded.model, device, None if dtype == "auto" else getattr(torch, dtype))

    identity = checkpoint.manifest_sha256(volumes.resolve(directory))
    # "auto" may be another dtype where the command continues.
    products = f"{model.dtype} on {device}"
    asked = {"command": "featurize", "model": identity, "pooling": pooling, "products": products}

    def features(chosen: list[str]) -> "np.ndarray":
        return read_features(model, [prepare(text) for text in chosen], pooling, rows)

    with texts_bar(texts.total, out) as advance:
        if out.suffix.lower() == ".npy":
            feature_rows(texts, out, model.units, features, asked, reading.faults, advance)
        else:
            results: dict[str, rows_of.Kind] = {_FEATURES: "numbers"}
            answer = lambda chosen: [{_FEATURES: vector.tolist()} for vector in features(chosen)]  # noqa: E731
            rows_of.answer_file(texts, out, results, answer, asked, reading.faults, advance)
    click.echo(f"{out}: {texts.total:,} texts x {model.units:,} units")
