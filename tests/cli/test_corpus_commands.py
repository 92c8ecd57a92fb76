"""`neuron corpus build` and `show`: what they take, what they print, and how they fail."""

import gzip
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Neuron
from tests.conftest import wait_until
from tests.support.reviews import left_in
from tests.support.runs import environment
from trainer.corpus.corpus import Corpus

REVIEWS = [f"review number {number}" for number in range(30)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A directory with two files of JSON lines, 30 different reviews in all, and one malformed line."""
    directory = tmp_path / "raw"
    directory.mkdir()
    lines = [json.dumps({"overall": 5, "reviewText": text}) + "\n" for text in REVIEWS]
    (directory / "a.jsonl").write_text("".join(lines[:20]) + "broken\n")
    (directory / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines[10:]).encode()))
    return directory


def test_build_and_show(tmp_path: Path, raw: Path, neuron: Neuron) -> None:
    out = tmp_path / "corpus"
    built = neuron("corpus", "build", f"{raw}/*.jsonl*", "--out", out, "--shards", 5, "--text-field", "reviewText")
    assert built.exit_code == 0, built.output
    assert built.stdout.splitlines()[0].startswith("30 reviews in 5 shards, ")
    assert built.stdout.splitlines()[1] == "left out: 10 duplicates, 0 empty, 1 malformed"
    assert f"left out: {raw / 'a.jsonl'}, line 21: not JSON" in built.output

    shown = neuron("corpus", "show", out, "--verify")
    assert shown.exit_code == 0, shown.output
    size = sum(path.stat().st_size for path in out.glob("shard-*"))
    assert shown.stdout.splitlines() == [
        "reviews     30",
        "left out    10 duplicates, 0 empty, 1 malformed",
        f"bytes       {size} ({size / 30:.0f} a review)",
        "shards      3 to train on, 1 to validate, 1 to test; 6 to 6 reviews each",
        "seed        0",
        f"source      a.jsonl: {(raw / 'a.jsonl').stat().st_size:,} bytes, 20 reviews, 0 empty, 1 malformed",
        f"source      b.jsonl.gz: {(raw / 'b.jsonl.gz').stat().st_size} bytes, 20 reviews, 0 empty, 0 malformed",
        "verified    every shard has the SHA-256 of the manifest",
    ]


def test_no_more_than_twenty_malformed_records_are_named(tmp_path: Path, neuron: Neuron) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in REVIEWS) + "broken\n" * 25)
    built = neuron(
        "corpus", "build", tmp_path / "a.jsonl", "--out", tmp_path / "c", "--shards", 3, "--text-field", "text"
    )
    assert built.output.count(", line ") == 20
    assert "left out: 5 more malformed records" in built.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--strict", "--text-field", "reviewText"],
            "a.jsonl, line 21: not JSON (unexpected character, expected a JSON value at column 1) (--strict)",
        ),
        (["--text-field", "text"], "a.jsonl, line 1: no field 'text'; there are: overall, reviewText"),
        (["--text-field", "reviewText", "--shards", "31"], "30 different reviews do not fill 31 shards"),
        (["--text-field", "reviewText", "--memory-limit", "lots"], "'lots' is not a size"),
        (["--text-field", "reviewText", "--memory-limit", "50MB", "--threads", "2"], "too low for 2 threads"),
    ],
)
def test_what_cannot_be_built_is_told(
    tmp_path: Path, raw: Path, neuron: Neuron, options: list[str], message: str
) -> None:
    failed = neuron("corpus", "build", f"{raw}/*", "--out", tmp_path / "corpus", "--shards", 5, *options)
    assert failed.exit_code == 1
    assert message in failed.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


@pytest.fixture
def building(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that builds the corpus `corpus` of many reviews, and has begun to."""
    (tmp_path / "many.txt").write_text("".join(f"{number} {'long ' * 20}\n" for number in range(1_000_000)))
    command = [sys.executable, "-m", "cli.main", "corpus", "build", tmp_path / "many.txt", "--out", tmp_path / "corpus"]
    with subprocess.Popen(list(map(str, command)), env=environment(), stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: left_in(tmp_path) != [], what="the building")
            yield process
        finally:
            process.kill()


def test_a_build_that_is_terminated_leaves_nothing(tmp_path: Path, building: "subprocess.Popen[bytes]") -> None:
    building.terminate()
    assert building.wait(180) == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["many.txt"]


def test_what_a_killed_build_left_goes_with_the_next(
    tmp_path: Path, neuron: Neuron, building: "subprocess.Popen[bytes]"
) -> None:
    (tmp_path / "few.txt").write_text("\n".join(REVIEWS))
    line = ("corpus", "build", tmp_path / "few.txt", "--out", tmp_path / "corpus", "--shards", 3)
    other = tmp_path / f".corpus.other.{'0' * 32}.partial"
    other.mkdir()
    beside = neuron(*line)
    assert beside.exit_code == 1
    assert f"another process builds {tmp_path / 'corpus'}" in beside.output
    building.kill()
    building.wait()
    assert len(left_in(tmp_path)) == 2
    assert neuron(*line).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "corpus", "few.txt", "many.txt"]


def test_a_directory_is_no_source(tmp_path: Path, raw: Path, neuron: Neuron) -> None:
    failed = neuron("corpus", "build", raw, "--out", tmp_path / "corpus")
    assert failed.exit_code == 1
    assert f"{raw} is a directory: name its files" in failed.output


def test_show_of_what_is_damaged(tmp_path: Path, neuron: Neuron) -> None:
    (tmp_path / "a.txt").write_text("\n".join(REVIEWS))
    out = tmp_path / "corpus"
    assert neuron("corpus", "build", tmp_path / "a.txt", "--out", out, "--shards", 3).exit_code == 0
    shard = out / "shard-00001.bin"
    shard.write_bytes(shard.read_bytes().swapcase())
    assert neuron("corpus", "show", out).exit_code == 0
    failed = neuron("corpus", "show", out, "--verify")
    assert failed.exit_code == 1
    assert "shard-00001.bin is damaged" in failed.output
    (out / "manifest.json").write_text("{}")
    failed = neuron("corpus", "show", out)
    assert failed.exit_code == 1
    assert "manifest.json is damaged: seed: Field required" in failed.output


def test_labels_are_kept_counted_and_shown(neuron: Neuron, tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("text,stars\n" + "".join(f"review {n},{('1', '3', '5', '')[n % 4]}\n" for n in range(40)))
    line = ("corpus", "build", source, "--shards", 4, "--text-field", "text", "--label-field", "stars")
    classes = ("--positive", "5", "--negative", "1")
    built = neuron(*line, *classes, "--held-out", 5, "--out", tmp_path / "corpus")
    assert built.exit_code == 0, built.output
    shown = neuron("corpus", "show", tmp_path / "corpus", "--verify")
    for said in (
        "negative: 1: 10\n",
        "positive: 5: 10\n",
        "no class    3: 10\n",
        "no label    10, of which 0 have copies",
    ):
        assert said in built.stdout
        assert said in shown.stdout
    counts = [shard.reviews for shard in Corpus(tmp_path / "corpus").manifest.shards]
    assert counts == [15, 15, 5, 5]
    named = neuron(*line, "--class", "low=1,3", "--class", "high=5", "--out", tmp_path / "named")
    assert "low: 1: 10, 3: 10\n" in named.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--positive", "5", "--negative", "1"), "classes need labels: say where they are"),
        (("--label-field", "stars", "--positive", "5"), "there is one class, positive: at least two are needed"),
        (("--label-field", "stars", "--class", "high"), "'high' is not NAME=VALUES"),
        (("--label-field", "stars", "--class", "positive=5", "--positive", "5"), "are the same: give one of them"),
        (
            ("--label-field", "stars", "--class", "a=1", "--class", "b=9"),
            "class b has '9', which no review is labelled",
        ),
        (("--held-out", 20), "40 different reviews do not fill 3 shards beside twice 20 held out: lower --shards"),
    ],
)
def test_labels_that_make_no_sense(neuron: Neuron, tmp_path: Path, options: tuple[object, ...], said: str) -> None:
    source = tmp_path / "a.csv"
    source.write_text("text,stars\n" + "".join(f"review {n},{n % 2}\n" for n in range(40)))
    failed = neuron(
        "corpus", "build", source, "--shards", 3, "--text-field", "text", "--out", tmp_path / "corpus", *options
    )
    assert failed.exit_code != 0
    assert said in failed.output.replace("\n", " ").replace("  ", " ")
