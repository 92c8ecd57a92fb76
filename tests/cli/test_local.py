"""`neuron classify`, `trace`, `generate` and `featurize` on a tiny checkpoint."""

import csv
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import Result

from api.schemas.requests import GenerateRequest
from api.schemas.responses import ClassifyResponse, GenerateResponse
from cli import local
from contract.jobs import ClassifyJob, GenerateJob
from engine import serving
from engine.engine import Engine
from engine.execute import execute
from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import checkpoint, volumes
from model.texts.preparation import prepare
from sentiment_neuron import files as batch
from tests.conftest import mean_hidden

Neuron = Callable[..., Result]
Execute = Callable[[Any], dict[str, Any]]

BASE: dict[str, Any] = {"id": "a-job-of-the-test", "timeout_s": float("inf")}
REVIEWS = ["A fine film.", "", "Dreadful & 'stale', \"they\" said", "næsten 🙂", " spaces ", "x" * 300, "short"]


@pytest.fixture(scope="module")
def by_worker(volume: Path) -> Iterator[Execute]:
    """What a worker makes of a job."""
    served = serving.load(volumes.latest(volume), "auto", "auto", 8)
    engine = Engine(8)
    engine.start()
    yield lambda job: execute(job, served, engine)
    engine.close()


def features_of(volume: Path, texts: list[str], dtype: torch.dtype | None = None) -> np.ndarray[Any, Any]:
    model = FoldedModel(checkpoint.read(volumes.latest(volume)).model, dtype=dtype)
    return read_features(model, [prepare(text) for text in texts])


# classify


def test_classify_prints_a_line_for_every_text(neuron: Neuron, volume: Path, by_worker: Execute) -> None:
    texts = ["A fine film.", "Dreadful"]
    result = neuron("classify", "--checkpoint", volume, *texts)
    assert result.exit_code == 0
    expected = by_worker(ClassifyJob(**BASE, texts=texts, head="sentiment"))["results"]
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    for line, text, answer in zip(lines, texts, expected, strict=True):
        assert line.split(maxsplit=3) == [
            answer["label"],
            f"{answer['score']:.1%}",
            f"{answer['sentiment']:+.2f}",
            text,
        ]


def test_classify_json_has_the_shape_of_the_service(neuron: Neuron, volume: Path, by_worker: Execute) -> None:
    result = neuron("classify", "--checkpoint", volume, "--json", "good", "bad")
    answer = json.loads(result.stdout)
    assert answer == by_worker(ClassifyJob(**BASE, texts=["good", "bad"], head="sentiment"))
    ClassifyResponse.model_validate(answer)


def test_classify_reads_stdin_in_chunks_and_passes_over_blank_lines(
    neuron: Neuron, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_CLASSIFY_CHUNK", 2)
    together = neuron("classify", "--checkpoint", volume, "--json", "a", "bö", "c", "d", "e")
    piped = neuron("classify", "--checkpoint", volume, "--json", input="a\r\n\nbö\n  \nc\nd\ne")
    scores = [
        [result["probabilities"]["positive"] for result in json.loads(output.stdout)["results"]]
        for output in (together, piped)
    ]
    assert len(scores[1]) == 5
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)  # rows side by side may change the last digits


def test_classify_shows_controls_as_pictures(neuron: Neuron, volume: Path) -> None:
    result = neuron("classify", "--checkpoint", volume, "a\x1b[31m\nb")
    assert result.stdout.rstrip("\n").endswith("  a␛[31m b")


def test_classify_colours_a_terminal(neuron: Neuron, volume: Path) -> None:
    result = neuron("classify", "--checkpoint", volume, "a", env={"FORCE_COLOR": "1"})
    assert "\x1b[1m" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", " "], "texts 1: the text is empty"),
        (["a", "--head", "topic"], "the model has no head 'topic'; its heads: sentiment"),
        (["a\udcff"], "not valid Unicode"),
        ([], "no text: name some"),
    ],
)
def test_classify_refuses(neuron: Neuron, volume: Path, arguments: list[str], message: str) -> None:
    result = neuron("classify", "--checkpoint", volume, *arguments)
    assert result.exit_code != 0
    assert message in result.stderr


def test_stdin_that_is_not_utf8(neuron: Neuron, volume: Path) -> None:
    result = neuron("classify", "--checkpoint", volume, input=b"fine\n\xff\n")
    assert result.exit_code == 1
    assert "stdin, line 2: not UTF-8" in result.stderr


@pytest.mark.parametrize("command", [["classify", "a"], ["trace", "a"], ["generate"]])
def test_a_checkpoint_that_is_not_there(neuron: Neuron, tmp_path: Path, command: list[str]) -> None:
    result = neuron(*command, "--checkpoint", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path} holds no published model" in result.stderr


def test_the_shipped_model_is_the_default() -> None:
    for command in (local.classify, local.trace, local.generate, local.featurize):
        (option,) = [parameter for parameter in command.params if parameter.name == "directory"]
        assert option.default == volumes.SHIPPED


def test_what_a_model_without_sentiment_cannot_do(neuron: Neuron, bare: Path) -> None:
    for command, message in (
        (["classify", "a"], "its heads: none"),
        (["trace", "a"], "name the units to trace"),
        (["generate", "--sentiment", "1"], "leave sentiment out"),
    ):
        result = neuron(*command, "--checkpoint", bare)
        assert result.exit_code == 1
        assert message in result.stderr
    assert neuron("trace", "a", "--unit", 3, "--checkpoint", bare).exit_code == 0


# generate


def test_generate_gives_what_a_worker_gives(neuron: Neuron, volume: Path, by_worker: Execute) -> None:
    """With nothing chosen but the seed, so the defaults are those of POST /generate."""
    body = GenerateRequest(prompt="It was", seed=7)
    fields = body.model_dump(exclude={"timeout_s", "seed", "best_of"})
    expected = by_worker(GenerateJob(**BASE, **fields, seed=7, best_of=1))
    result = neuron("generate", "It was", "--seed", 7, "--checkpoint", volume, "--json")
    assert json.loads(result.stdout) == expected
    GenerateResponse.model_validate(expected)
    streamed = neuron("generate", "It was", "--seed", 7, "--checkpoint", volume)
    assert streamed.stdout == expected["results"][0]["text"] + "\n"
    assert neuron("generate", "It was", "--seed", 7, "--checkpoint", volume).stdout == streamed.stdout


def test_generate_passes_every_option_on(neuron: Neuron, volume: Path, by_worker: Execute) -> None:
    options = {"sentiment": 0.5, "length": 30, "temperature": 1.5, "top_k": 40, "top_p": 0.9, "seed": 3, "n": 2}
    job = GenerateJob(**BASE, **options, prompt="", clamp={3: 1.5, 4: -2.0}, best_of=3, stop=["e", "ab"])
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    arguments += ["--clamp", "3=1.5", "--clamp", "4=-2", "--best-of", 3, "--stop", "e", "--stop", "ab"]
    expected = by_worker(job)
    assert json.loads(neuron("generate", "--checkpoint", volume, "--json", *arguments).stdout) == expected
    printed = neuron("generate", "--checkpoint", volume, *arguments).stdout
    first, second = expected["results"]
    assert first["mean_log_probability"] >= second["mean_log_probability"]
    assert printed == "".join(
        f"{number}  {sample['mean_log_probability']:+.3f}  {sample['text']}\n"
        for number, sample in ((1, first), (2, second))
    )


def test_generate_ranked_by_sentiment(neuron: Neuron, volume: Path, by_worker: Execute) -> None:
    options = {"sentiment": -1.0, "rank_by": "sentiment", "length": 30, "temperature": 1.5, "seed": 3, "n": 2}
    defaults = GenerateRequest().model_dump(exclude={"timeout_s", *options})
    expected = by_worker(GenerateJob(**BASE, **defaults | options | {"best_of": 5}))
    GenerateResponse.model_validate(expected)
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    printed = neuron("generate", "--checkpoint", volume, *arguments, "--best-of", 5).stdout
    first, second = expected["results"]
    assert first["positive"] <= second["positive"]
    assert printed == "".join(
        f"{number}  {sample['positive']:6.1%}  {sample['text']}\n" for number, sample in ((1, first), (2, second))
    )
    # One sample is printed at the end as well, for it cannot be ranked before.
    alone = by_worker(GenerateJob(**BASE, **defaults | options | {"n": 1, "best_of": 1}))["results"][0]
    shown = neuron("generate", "--checkpoint", volume, *arguments, "--n", 1).stdout
    assert shown == f"1  {alone['positive']:6.1%}  {alone['text']}\n"


def test_generate_without_any_stop(neuron: Neuron, volume: Path) -> None:
    result = neuron("generate", "--checkpoint", volume, "--seed", 1, "--length", 2000, "--stop", "", "--json")
    (sample,) = json.loads(result.stdout)["results"]
    assert sample["finish_reason"] == "length"
    assert "\n" in sample["text"]


def test_a_terminal_is_shown_the_prompt_and_no_controls(neuron: Neuron, volume: Path) -> None:
    arguments = ["generate", "so\x1b", "--checkpoint", volume, "--seed", 1, "--length", 2000, "--stop", ""]
    shown = neuron(*arguments, env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout
    assert "so␛" in shown
    controls = {character for character in shown if ord(character) < 32} - {"\n"}
    assert controls <= {"\x1b"}  # from the dim prompt alone
    assert shown.count("\x1b") <= 2
    assert "\x1b" in neuron(*arguments).stdout or "\x01" in neuron(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clamp", "3"], "'3' is not UNIT=VALUE"),
        (["--clamp", "x=1"], "'x=1' is not UNIT=VALUE"),
        (["--clamp", "3=nan"], "clamp 3:"),
        (["--clamp", "-1=1"], "clamp -1"),
        (["--clamp", "32=1"], "unit 32 does not exist"),
        (["--sentiment", "2"], "sentiment: Input should be less than or equal to 1"),
        (["--length", "0"], "length:"),
        (["--top-k", "257"], "top_k:"),
        (["--n", "3", "--best-of", "2"], "best_of is 2, less than n, which is 3"),
        (["--rank-by", "sentiment"], "no sentiment is asked for"),
        (["\udcff"], "not valid Unicode"),
    ],
)
def test_generate_refuses(neuron: Neuron, volume: Path, arguments: list[str], message: str) -> None:
    result = neuron("generate", "--checkpoint", volume, *arguments)
    assert result.exit_code != 0
    assert message in result.stderr


# featurize


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
    monkeypatch.setattr(batch, "CHUNK", chunk)
    source, out = write_input(tmp_path / name, REVIEWS), tmp_path / "out.npy"
    result = neuron("featurize", source, "--out", out, "--checkpoint", volume, "--rows", 2, "--dtype", "float32")
    assert result.exit_code == 0, result.output
    features = np.load(out)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, features_of(volume, REVIEWS, torch.float32), atol=1e-6)
    np.testing.assert_allclose(features[1], features_of(volume, [""], torch.float32)[0], atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out.npy"])


@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.parquet"])
def test_featurize_to_parquet(
    neuron: Neuron, volume: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "CHUNK", 3)
    source, out = write_input(tmp_path / name, REVIEWS), tmp_path / "out.parquet"
    assert neuron("featurize", source, "--out", out, "--checkpoint", volume, "--dtype", "float32").exit_code == 0
    table = pq.read_table(out)
    assert table.schema.field("features").type == pa.list_(pa.float32())
    assert table.column("text").to_pylist() == REVIEWS
    features = np.array(table.column("features").to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(features, features_of(volume, REVIEWS, torch.float32), atol=1e-6)


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


def test_null_and_large_strings_of_parquet(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"body": pa.array(["a", None], pa.large_string())}), source)
    result = neuron("featurize", source, "--out", out, "--checkpoint", volume, "--column", "body")
    assert result.exit_code == 0
    assert pq.read_table(out).column("body").to_pylist() == ["a", ""]


def test_a_byte_order_mark_is_no_text(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.npy"
    source.write_text("\ufefftext\r\nfine\r\n", encoding="utf-8")
    assert neuron("featurize", source, "--out", out, "--checkpoint", volume).exit_code == 0
    np.testing.assert_allclose(np.load(out), features_of(volume, ["fine"]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "out", "message"),
    [
        ("in.csv", b"id,review\n1,fine\n", "out.npy", "has no column 'text'; its columns: id, review"),
        ("in.csv", b"id,text\n1\n", "out.npy", "line 2: no column 'text'"),
        ("in.csv", b"text\n", "out.npy", "holds no texts"),
        ("in.csv", b"", "out.npy", "holds no texts"),
        ("in.txt", b"", "out.npy", "holds no texts"),
        ("in.txt", b"\xff\n", "out.npy", "cannot be read: 'utf-8' codec"),
        ("in.json", b"{}", "out.npy", "unknown suffix; known are .txt and .csv"),
        ("in.parquet.gz", b"", "out.npy", "unknown suffix"),
        ("in.txt.xz", b"not packed", "out.npy", "cannot be read"),
        ("in.txt.gz", gzip.compress(b"a\n" * 1000)[:-9], "out.npy", "cannot be read"),
        ("in.parquet", b"not parquet", "out.npy", "cannot be read"),
        ("in.txt", b"a\n", "out.csv", "features are written as .npy or .parquet"),
        ("in.txt", b"a\n", "nowhere/out.npy", "is not a directory"),
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


def test_featurize_refuses_parquet_that_holds_no_text(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": [1, 2], "features": ["a", "b"]}), source)
    for arguments, message in (
        (["--out", tmp_path / "out.npy"], "column 'text' holds int64, not text"),
        (["--out", tmp_path / "out.npy", "--column", "body"], "its columns: text, features"),
        (["--out", tmp_path / "out.parquet", "--column", "features"], "cannot be called 'features'"),
        (["--out", source, "--column", "features"], "is the input itself"),
    ):
        result = neuron("featurize", source, "--checkpoint", volume, *arguments)
        assert result.exit_code == 1
        assert message in result.stderr


def test_a_file_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    out.write_bytes(b"earlier")

    def write_one_of_two(fault: Exception | None) -> None:
        with batch.features_file(out, "text", 2, 4) as write:
            write(["a"], np.zeros((1, 4), dtype=np.float32))
            if fault is not None:
                raise fault

    with pytest.raises(RuntimeError):
        write_one_of_two(RuntimeError())
    with pytest.raises(click.ClickException, match="the input changed while it was read: 1 texts, 2 before"):
        write_one_of_two(None)
    with pytest.raises(click.ClickException, match="cannot be written: No space left on device"):
        write_one_of_two(OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_bytes() == b"earlier"
