"""`neuron rnn`: a contest's files in, its submission out, in two commands."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from cli.main import main
from sentiment_neuron import RecurrentClassifier
from tests.recurrent.reviews import LABELS, TEXTS

SMALL = (
    "--embedding", "8", "--units", "8", "--batch-size", "8", "--epochs", "20", "--patience", "20",
    "--learning-rate", "0.02", "--min-df", "1",
)  # fmt: skip
KAGGLE = ("--quote", '"', "--escape", "\\")


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["rnn", *map(str, arguments)])


def succeeded(*arguments: Any) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as those of Kaggle's "Bag of Words Meets Bags of Popcorn", and a classifier fitted on them."""
    place = tmp_path_factory.mktemp("contest")
    texts = [f'{text}<br /><br />"Quoted" words,\tand a tab.'.replace("\t", " ") for text in TEXTS]
    numbers = [int(label == "good") for label in LABELS]
    train = [f'"{n}_{7 * y}"\t{y}\t{quoted(text)}' for n, (text, y) in enumerate(zip(texts, numbers, strict=True))]
    test = [f'"{n}_0"\t{quoted(text)}' for n, text in enumerate(texts)]
    (place / "labeledTrainData.tsv").write_text("\n".join(["id\tsentiment\treview", *train, ""]))
    (place / "testData.tsv").write_text("\n".join(["id\treview", *test, ""]))
    fitted = succeeded(
        "fit", place / "labeledTrainData.tsv", "--label-field", "sentiment", "--text-field", "review", *KAGGLE,
        "--out", place / "fitted", *SMALL,
    )  # fmt: skip
    assert "labels         0, 1\nlearned from   54 texts\n" in fitted.stdout
    assert re.search(r"held out       accuracy [01]\.\d{4} on the 6 texts that chose epoch \d+\n", fitted.stdout)
    assert "epoch 1 of 20" in fitted.stderr
    return place


def test_a_submission(contest: Path) -> None:
    out = contest / "submission.csv"
    result = succeeded(
        "predict", contest / "fitted", contest / "testData.tsv", "--text-field", "review", *KAGGLE,
        "--submission", "id,sentiment", "--out", out,
    )  # fmt: skip
    assert f"{out}: {len(TEXTS)} rows, with id, sentiment" in result.output
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"{n}_0" for n in range(len(TEXTS))]
    right = [(float(row["sentiment"]) > 0.5) == (label == "good") for row, label in zip(rows, LABELS, strict=True)]
    assert sum(right) > 0.95 * len(TEXTS)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_row_with_its_results(contest: Path, tmp_path: Path, suffix: str) -> None:
    source, out = tmp_path / "texts.jsonl", tmp_path / f"answers{suffix}"
    texts = ["A lovely film.", "", "A dreadful one."]
    source.write_text("".join(json.dumps({"n": n, "text": text}) + "\n" for n, text in enumerate(texts)))
    result = succeeded("predict", contest / "fitted", source, "--out", out)
    assert "left out" in result.output
    if suffix == ".parquet":
        rows = pq.read_table(out).to_pylist()
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == texts
    assert rows[1]["error"] == "the text is empty"
    expected = RecurrentClassifier.load(contest / "fitted").predict_proba(texts)
    for row, probabilities in zip(rows, expected, strict=True):
        if row["text"]:
            assert row["label"] == str(int(probabilities.argmax()))
            assert float(row["probability_1"]) == pytest.approx(probabilities[1], abs=1e-6)


def test_a_regression_and_more_than_two_labels(tmp_path: Path) -> None:
    source = tmp_path / "stars.jsonl"
    stars = [str({"good": 5, "bad": 1}[label] if n % 3 else 3) for n, label in enumerate(LABELS)]
    source.write_text("".join(json.dumps({"text": t, "label": s}) + "\n" for t, s in zip(TEXTS, stars, strict=True)))
    assert "held out       R² " in succeeded("fit", source, "--regression", "--out", tmp_path / "r", *SMALL).output
    succeeded("predict", tmp_path / "r", source, "--text-field", "text", "--out", tmp_path / "r.jsonl")
    values = [json.loads(line)["value"] for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert 1 < sum(values) / len(values) < 5
    assert "labels         1, 3, 5" in succeeded("fit", source, "--balanced", "--out", tmp_path / "c", *SMALL).output
    for name, kind in (("r", float), ("c", int)):
        succeeded(
            "predict", tmp_path / name, source, "--text-field", "text", "--submission", "label,stars",
            "--out", tmp_path / f"{name}.csv",
        )  # fmt: skip
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            assert all(kind(row["stars"]) is not None for row in csv.DictReader(file))


def test_what_cannot_be_done_says_why(contest: Path, tmp_path: Path) -> None:
    train = contest / "labeledTrainData.tsv"
    fields = ("--label-field", "sentiment", "--text-field", "review", *KAGGLE)
    assert "exists already and is never overwritten" in run("fit", train, *fields, "--out", contest / "fitted").output
    wrong = run("fit", train, *fields, "--out", tmp_path / "x", "--units", "0")
    assert "units is 0, not a whole number of 1 to 16,384" in wrong.output
    words = tmp_path / "words.csv"
    words.write_text("text,label\nA film,good\nA book,bad\n")
    wrong = run("fit", words, "--regression", "--out", tmp_path / "x")
    assert "label 'good' is not a number" in wrong.output
    assert "--balanced is for labels" in run("fit", words, "--regression", "--balanced", "--out", tmp_path / "x").output
    words.write_text("text,label\nA film,good\nA book,good\n")
    wrong = run("fit", words, "--out", tmp_path / "x")
    assert "words.csv: all texts have the label 'good', at least two are needed" in wrong.output
    fitted = contest / "fitted"
    for submission, told in (
        ("id", "give ID,NAME"),
        ("id,id", "which differ"),
        ("key,sentiment", "has no column 'key', its columns: id, review"),
    ):
        wrong = run(
            "predict", fitted, contest / "testData.tsv", "--text-field", "review", *KAGGLE,
            "--submission", submission, "--out", tmp_path / "x.csv",
        )  # fmt: skip
        assert wrong.exit_code != 0
        assert told in wrong.output
    assert "cannot be read" in run("predict", tmp_path, words, "--out", tmp_path / "x.csv").output
    lines = tmp_path / "texts.jsonl"
    lines.write_text('{"id": 1, "text": "A film."}\n{"text": "A book."}\n')
    asked = ("predict", fitted, lines, "--submission", "id,sentiment", "--out", tmp_path / "x.csv")
    assert "texts.jsonl, line 2: it has no 'id'" in run(*asked).output
    lines.write_text('{"id": 1, "text": "A film."}\n{"id": 2, "text": ""}\n')
    assert "answered as texts without words: 1 rows" in succeeded(*asked).output
    table = tmp_path / "texts.tsv"
    table.write_text('id\ttext\n"1"\tA film.\n"2"\n')
    torn = run("predict", fitted, table, *asked[3:])
    assert "texts.tsv, line 3: it has 1 column, the header has 2, and a submission needs every row" in torn.output
    table.write_text("id\ttext\n")
    assert "quotes" not in succeeded("predict", fitted, table, *asked[3:]).output
    table.write_text('id\ttext\n"1"\tA film.\n"2"\tA book.\n')
    assert "every id is in quotes: if they are no part" in succeeded("predict", fitted, table, *asked[3:]).output
    strict = run(*asked[:-1], tmp_path / "y.csv", "--strict")
    assert "line 2: the text is empty (--strict)" in strict.output
    assert strict.exit_code != 0
    assert not (tmp_path / "y.csv").exists()
    assert not (tmp_path / "x").exists()
