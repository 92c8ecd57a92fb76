"""`neuron featurize` on a tiny checkpoint: every format, in and out."""

import csv
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import Result

from cli.pooling_option import POOLINGS
from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import checkpoint, volumes
from model.heads.pooling import Pooling
from sentiment_neuron import rows
from tests.support.exact import mean_hidden
from texts.preparation import prepare

Neuron = Callable[..., Result]

REVIEWS = ["A fine film.", "-", "Dreadful & 'stale', \"they\" said", "næsten 🙂", " spaces ", "x" * 300, "short"]


def features_of(volume: Path, texts: list[str], dtype: torch.dtype | None = None) -> np.ndarray[Any, Any]:
    model = FoldedModel(checkpoint.read(volumes.latest(volume)).model, dtype=dtype)
    return read_features(model, [prepare(text) for text in texts])


def write_input(path: Path, texts: list[str]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path)
        return path
    opener: Any = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    with opener(path, "wt", encoding="utf-8", newline="") as stream:
        if ".csv" in path.suffixes:
            rows = csv.writer(stream)
            rows.writerow(["id", "text"])
            rows.writerows(enumerate(texts))
        else:
            stream.write("".join(f"{text}\n" for text in texts))
    return path


@pytest.mark.parametrize("chunk", [3, 4096])
@pytest.mark.parametrize("name", ["in.txt", "in.txt.gz", "in.txt.xz", "in.csv", "in.csv.xz", "in.parquet"])
def test_featurize_to_npy(
    neuron: Neuron, volume: Path, tmp_path: Path, name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "ROWS", chunk)
    source, out = write_input(tmp_path / name, REVIEWS), tmp_path / "out.npy"
    result = neuron("featurize", source, "--out", out, "--checkpoint", volume, "--rows", 2, "--dtype", "float32")
    assert result.exit_code == 0, result.output
    features = np.load(out)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, features_of(volume, REVIEWS, torch.float32), atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out.npy"])


@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.parquet"])
def test_featurize_to_parquet(
    neuron: Neuron, volume: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "ROWS", 3)
    source, out = write_input(tmp_path / name, REVIEWS), tmp_path / "out.parquet"
    assert neuron("featurize", source, "--out", out, "--checkpoint", volume, "--dtype", "float32").exit_code == 0
    table = pq.read_table(out)
    assert table.schema.field("features").type == pa.list_(pa.float32())
    assert table.column("text").to_pylist() == REVIEWS
    features = np.array(table.column("features").to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(features, features_of(volume, REVIEWS, torch.float32), atol=1e-6)


def test_every_pooling_of_the_model_may_be_named() -> None:
    assert get_args(Pooling) == POOLINGS


def test_featurize_pooling(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    source, out = write_input(tmp_path / "in.txt", REVIEWS), tmp_path / "out.npy"
    options = ("--out", out, "--checkpoint", volume, "--dtype", "float32", "--rows", 2)
    assert neuron("featurize", source, *options, "--pooling", "tanh").exit_code == 0
    np.testing.assert_allclose(np.load(out), np.tanh(features_of(volume, REVIEWS, torch.float32)), atol=1e-6)
    assert neuron("featurize", source, *options, "--pooling", "mean").exit_code == 0
    model = checkpoint.read(volumes.resolve(volume)).model
    means = [mean_hidden(model, prepare(text)) for text in REVIEWS]
    np.testing.assert_allclose(np.load(out), means, atol=1e-5)


def test_featurize_in_bfloat16_differs_but_little(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    source, out = write_input(tmp_path / "in.txt", REVIEWS), tmp_path / "out.npy"
    neuron("featurize", source, "--out", out, "--checkpoint", volume, "--dtype", "bfloat16")
    exact = features_of(volume, REVIEWS, torch.float32)
    error = np.abs(np.load(out) - exact).max()
    assert 0 < error < 0.1 * np.abs(exact).max()


def test_featurize_takes_the_place_of_an_earlier_file(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    for texts in (["a", "b"], ["c"]):
        source = write_input(tmp_path / "in.txt", texts)
        assert neuron("featurize", source, "--out", out, "--checkpoint", volume).exit_code == 0
    np.testing.assert_allclose(np.load(out), features_of(volume, ["c"]), atol=1e-6)


def test_a_byte_order_mark_is_no_text(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.npy"
    source.write_text("\ufefftext\r\nfine\r\n", encoding="utf-8")
    assert neuron("featurize", source, "--out", out, "--checkpoint", volume).exit_code == 0
    np.testing.assert_allclose(np.load(out), features_of(volume, ["fine"]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "out", "message"),
    [
        (
            "in.csv",
            b"id,review\n1,fine\n",
            "out.npy",
            "name the field that holds the text with --text-field; there are: id",
        ),
        ("in.csv", b"", "out.npy", "in.csv: the file is empty"),
        ("in.txt.xz", b"not packed", "out.npy", "cannot be read"),
        ("in.txt.gz", gzip.compress(b"a\n" * 1000, mtime=0)[:-9], "out.npy", "cannot be read"),
        ("in.parquet", b"not parquet", "out.npy", "cannot be read"),
        ("in.txt", b"a\n", "out.csv", "results are written as .npy, .parquet"),
        ("in.txt", b"a\n", "in.txt/out.npy", "in.txt cannot be made: "),
    ],
)
def test_featurize_refuses(
    neuron: Neuron, volume: Path, tmp_path: Path, name: str, content: bytes, out: str, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    result = neuron("featurize", tmp_path / name, "--out", tmp_path / out, "--checkpoint", volume)
    assert result.exit_code == 1
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]
