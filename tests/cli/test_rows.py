"""Rows in, rows out: `neuron classify`, `featurize` and `trace` on files, as a tiny checkpoint answers them."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result

from contract import children
from model.checkpoints.durable import exclusively
from sentiment_neuron import parts, rows
from tests.conftest import publish_tiny

Neuron = Callable[..., Result]

TEXTS = ["A fine film.", "", "Dreadful & 'stale', \"they\" said", "næsten 🙂", "&nbsp;", "two\nlines", "short"]
UNUSABLE = [index for index, text in enumerate(TEXTS) if text in ("", "&nbsp;")]
RESULTS = {"label", "score", "margin", "unit_sentiment", "unit_value", "probability_negative", "probability_positive"}


def write_rows(path: Path) -> Path:
    """The texts beside an id, and a column that is called like a result."""
    match path.suffix:
        case ".csv" | ".tsv":
            with path.open("w", newline="") as file:
                writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t")
                writer.writerows([("id", "text"), *enumerate(TEXTS)])
        case ".jsonl":
            lines = (json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(TEXTS))
            path.write_text("".join(lines))
        case _:
            pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), path)
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    match path.suffix:
        case ".csv" | ".tsv":
            with path.open(newline="") as file:
                found = list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t"))
            return [{name: value or None for name, value in row.items()} for row in found]
        case ".jsonl":
            return [json.loads(line) for line in path.read_text().splitlines()]
        case _:
            return list(pq.read_table(path).to_pylist())


@pytest.mark.parametrize("into", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("of", [".csv", ".jsonl", ".parquet"])
def test_every_row_comes_out_once_in_order(
    neuron: Neuron, volume: Path, tmp_path: Path, of: str, into: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "ROWS", 3)
    source, out = write_rows(tmp_path / f"in{of}"), tmp_path / f"out{into}"
    result = neuron("classify", source, "--out", out, "--checkpoint", volume)
    assert result.exit_code == 0, result.output
    found = read_rows(out)
    assert [str(row["id"]) for row in found] == [str(number) for number in range(len(TEXTS))]
    assert [row["text"] or "" for row in found] == TEXTS
    usable = [index for index in range(len(TEXTS)) if index not in UNUSABLE]
    answers = json.loads(neuron("classify", "--json", *[TEXTS[i] for i in usable], "--checkpoint", volume).stdout)
    for index, answer in zip(usable, answers["results"], strict=True):
        assert found[index].keys() >= RESULTS
        assert found[index]["label"] == answer["label"]
        assert float(found[index]["score"]) == pytest.approx(answer["score"], abs=1e-3)
        assert found[index]["error"] is None
    for index in UNUSABLE:
        assert found[index]["error"] == rows.EMPTY
        assert found[index]["label"] is None
    told = [line for line in result.stderr.splitlines() if line.startswith("left out: ")]
    assert [line.rpartition(": ")[2] for line in told] == [rows.EMPTY] * len(UNUSABLE)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, out.name])


def test_parquet_keeps_its_types(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    table = pa.table(
        {"text": pa.array(["a", "b"]).dictionary_encode(), "when": pa.array([1, 2], pa.timestamp("ms")), "x": [[1], []]}
    )
    pq.write_table(table, tmp_path / "in.parquet")
    assert (
        neuron("classify", tmp_path / "in.parquet", "--out", tmp_path / "out.parquet", "--checkpoint", volume).exit_code
        == 0
    )
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.field("when").type == pa.timestamp("ms")
    assert found.column("x").to_pylist() == [[1], []]


def test_results_do_not_take_the_place_of_columns(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text,label\ngood,pos\n")
    result = neuron("classify", tmp_path / "in.csv", "--out", tmp_path / "o.csv", "--checkpoint", volume)
    assert result.exit_code == 0, result.output
    (row,) = read_rows(tmp_path / "o.csv")
    assert row["label"] == "pos"
    assert row["neuron_label"] in ("negative", "positive")
    assert float(row["neuron_score"]) >= 0.5
    assert "neuron_label" in result.stdout


def test_a_broken_row_keeps_its_place(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b'text,n\ngood,1\nbad,2,3\n"open,4\nfine,5\n\x93x,6\n')
    assert neuron("classify", tmp_path / "in.csv", "--out", tmp_path / "o.jsonl", "--checkpoint", volume).exit_code == 0
    found = read_rows(tmp_path / "o.jsonl")
    assert [row["error"] and row["error"][:14] for row in found] == [
        None,
        "it has 3 colum",
        "a quote that i",
        None,
        "not UTF-8 (byt",
    ]
    assert [row["n"] if "n" in row else row["text"] for row in found][:4] == ["1", "bad,2,3", '"open,4', "5"]


def test_strict_stops_at_the_first(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.csv")
    result = neuron("classify", source, "--out", tmp_path / "o.csv", "--strict", "--checkpoint", volume)
    assert result.exit_code == 1
    assert "in.csv, line 3: the text is empty (--strict)" in result.stderr
    assert not (tmp_path / "o.csv").exists()


def test_traces_of_a_file(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.csv")
    out = tmp_path / "o.jsonl"
    result = neuron("trace", source, "--out", out, "--unit", 3, "--unit", 5, "--checkpoint", volume)
    assert result.exit_code == 0, result.output
    found = read_rows(out)
    assert [len(row["unit_3"] or []) for row in found][:2] == [len("\n A fine film. "), 0]
    assert found[1]["error"] == rows.EMPTY
    assert found[0]["unit_3"] != found[0]["unit_5"]


def test_features_of_a_file(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl")
    for name in ("o.npy", "o.parquet"):
        assert neuron("featurize", source, "--out", tmp_path / name, "--checkpoint", volume).exit_code == 0
    features = np.load(tmp_path / "o.npy")
    assert features.shape == (len(TEXTS), 32)
    assert np.flatnonzero(np.isnan(features).all(axis=1)).tolist() == UNUSABLE
    found = read_rows(tmp_path / "o.parquet")
    assert [row["features"] is None for row in found] == [index in UNUSABLE for index in range(len(TEXTS))]
    np.testing.assert_allclose(found[0]["features"], features[0], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", "in.csv", "--out", "o.xlsx"], "results are written as .csv"),
        (["classify", "in.csv", "--out", "in.csv"], "in.csv is the input itself"),
        (["classify", "in.csv", "--out", "in.csv/o.csv"], "in.csv cannot be made: "),
        (["classify", "in.csv", "in.csv", "--out", "o.csv"], "--out goes with one FILE, not with 2"),
        (["classify", "in.csv", "--json", "--out", "o.csv"], "--json is for stdout"),
        (["classify", "none.csv", "--out", "o.csv"], "there is no file none.csv"),
        (["classify", ".", "--out", "o.csv"], ". is a directory: name a file"),
        (["classify", "pipe.csv", "--out", "o.csv"], "pipe.csv is no regular file"),
        (["featurize", "pipe.csv", "--out", "o.npy"], "pipe.csv is no regular file"),
        (["classify", "twice.csv", "--out", "o.csv"], "more than one column called id"),
        (["trace", "in.csv", "--out", "o.csv"], "results are written as .jsonl"),
        (["featurize", "in.csv", "--out", "o.csv"], "results are written as .npy"),
    ],
)
def test_what_cannot_be_done_is_said_first(
    neuron: Neuron, volume: Path, tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "in.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "twice.csv").write_text("id,text,id\n1,a,2\n")
    result = neuron(*arguments, "--checkpoint", volume)
    assert result.exit_code != 0
    assert message in result.stderr
    assert not list(tmp_path.glob("o.*"))


def test_a_text_that_is_the_name_of_a_file(
    neuron: Neuron, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "in.csv")
    refused = neuron("classify", "in.csv", "--checkpoint", volume)
    assert refused.exit_code == 2
    long = neuron("classify", "a long review " * 100, "--checkpoint", volume)
    assert long.exit_code == 0
    assert "in.csv is a file: give --out for its rows, or its lines on stdin: < in.csv" in refused.stderr


@pytest.mark.parametrize(
    ("name", "content"), [("in.csv", "id,text\n"), ("in.tsv", "id\ttext"), ("in.jsonl", ""), ("in.txt", "")]
)
@pytest.mark.parametrize("into", [".csv", ".jsonl", ".parquet"])
def test_no_rows_in_no_rows_out(
    neuron: Neuron, volume: Path, tmp_path: Path, name: str, content: str, into: str
) -> None:
    source, out = tmp_path / name, (tmp_path / "out").with_suffix(into)
    source.write_text(content)
    neuron("classify", source, "--out", out, "--checkpoint", volume)
    assert read_rows(out) == []
    if into != ".jsonl":
        columns = pq.read_schema(out).names if into == ".parquet" else out.read_text().strip().split(",")
        assert set(columns) > RESULTS | {"error"}
        assert columns[0] == {"in.jsonl": "label", "in.txt": "text"}.get(name, "id")


def test_no_rows_of_parquet(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    typed = pa.table({"when": pa.array([], pa.timestamp("us")), "text": pa.array([], pa.string())})
    pq.write_table(typed, tmp_path / "in.parquet")
    neuron("classify", tmp_path / "in.parquet", "--out", tmp_path / "out.parquet", "--checkpoint", volume)
    found = pq.read_table(tmp_path / "out.parquet")
    assert len(found) == 0
    assert found.schema.field("when").type == pa.timestamp("us")
    neuron("featurize", tmp_path / "in.parquet", "--out", tmp_path / "out.npy", "--checkpoint", volume)
    assert np.load(tmp_path / "out.npy").shape[0] == 0


def test_values_that_json_lacks_are_plain_in_csv(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    when = pd.Timestamp("2020-02-29T12:30:00.000001Z")
    table = pa.table({"when": [when], "price": [Decimal("1.50")], "tags": [["a"]], "text": ["Fine."]})
    pq.write_table(table, tmp_path / "in.parquet")
    neuron("classify", tmp_path / "in.parquet", "--out", tmp_path / "out.csv", "--checkpoint", volume)
    (row,) = read_rows(tmp_path / "out.csv")
    assert pd.Timestamp(row["when"]) == when
    assert (row["price"], row["tags"]) == ("1.50", '["a"]')


def test_results_of_results(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "0.csv")
    for number in range(3):
        done = neuron(
            "classify",
            *(tmp_path / f"{number}.csv", "--out", tmp_path / f"{number + 1}.csv"),
            *("--text-field", "text", "--checkpoint", volume),
        )
        assert done.exit_code == 0, done.output
    with (tmp_path / "3.csv").open(newline="") as file:
        names = next(csv.reader(file))
    assert len(names) == len(set(names))
    assert {"label", "neuron_label", "neuron_2_label"} < set(names)


ODD = [
    '{"text": "a", "n": [NaN], "more": "half \\ud83d"}',
    "3",
    '["x", "y"]',
    "null",
    '{"text": "b\\rc", "when": 12345678901234567890}',
]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_records_that_are_no_rows(neuron: Neuron, volume: Path, tmp_path: Path, suffix: str) -> None:
    (tmp_path / "in.jsonl").write_text("\n".join(ODD))
    out = tmp_path / f"out{suffix}"
    done = neuron("classify", tmp_path / "in.jsonl", "--out", out, "--checkpoint", volume)
    assert done.exit_code == 0, done.output
    found = {
        ".jsonl": lambda: pd.read_json(out, lines=True),
        ".csv": lambda: pd.read_csv(out, keep_default_na=False),
        ".parquet": lambda: pd.read_parquet(out),
    }[suffix]()
    assert list(found["text"].fillna("")) == ["", "", "", "", "b\rc"]
    assert [str(value) for value in found["record"].fillna("")][1:4] == ["3", '["x", "y"]', "null"]


def test_columns_that_only_arrow_has(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    table = pa.table(
        {"text": ["a"], "at": pa.array([1], pa.timestamp("s")), "day": pa.array([86_400_000], pa.date64())}
    )
    with pa.OSFile(str(tmp_path / "in.arrow"), "w") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    for suffix in ("parquet", "jsonl"):
        out = tmp_path / f"out.{suffix}"
        done = neuron("classify", tmp_path / "in.arrow", "--out", out, "--checkpoint", volume)
        assert done.exit_code == 0, done.output
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 1


def test_a_date_that_python_has_not(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "at": pa.array([2**62], pa.timestamp("us"))}), tmp_path / "in.parquet")
    done = neuron("classify", tmp_path / "in.parquet", "--out", tmp_path / "o.jsonl", "--checkpoint", volume)
    assert done.exit_code == 1
    assert "row 1 to row 1 cannot be written so: " in done.stderr


def fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


class TestStopped:
    """What was killed continues: nothing is answered twice, and no row is missing."""

    ROWS = 60_000

    def command(self, tmp_path: Path, volume: Path, *more: str) -> list[str]:
        files = [str(tmp_path / "in.txt"), "--out", str(tmp_path / "o.jsonl")]
        return [sys.executable, "-m", "cli.main", "classify", *files, "--checkpoint", str(volume), *more]

    @pytest.mark.slow
    def test_a_command_that_was_killed_goes_on(self, volume: Path, tmp_path: Path) -> None:
        (tmp_path / "in.txt").write_text("".join(f"text {number}\n" for number in range(self.ROWS)))
        parts = tmp_path / "o.jsonl.parts"
        for kept, number in ((2, signal.SIGKILL), (5, signal.SIGINT)):
            process = subprocess.Popen(
                self.command(tmp_path, volume), env=children.environment(os.environ), stderr=subprocess.PIPE, text=True
            )
            try:
                while len(list(parts.glob("*.part"))) < kept:
                    assert process.poll() is None
                    time.sleep(0.01)
            finally:
                process.send_signal(number)
                told = process.communicate()[1]
        assert f"{tmp_path / 'o.jsonl'} is not finished: the same command continues it" in told
        there = {path: path.stat().st_mtime_ns for path in parts.glob("*.part")}
        assert len(there) >= 5
        last = subprocess.Popen(self.command(tmp_path, volume), env=children.environment(os.environ))
        while parts.exists() and last.poll() is None:
            assert {path: path.stat().st_mtime_ns for path in there if path.exists()}.items() <= there.items()
            time.sleep(0.05)
        assert last.wait() == 0
        found = read_rows(tmp_path / "o.jsonl")
        assert [row["text"] for row in found] == [f"text {number}" for number in range(self.ROWS)]
        assert not parts.exists()

    @pytest.fixture
    def begun(self, volume: Path, tmp_path: Path, neuron: Neuron, monkeypatch: pytest.MonkeyPatch) -> Path:
        """What is left of a command that failed while it joined five parts."""
        monkeypatch.setattr(rows, "ROWS", 10)
        lines = [f"text {number}" if number != 7 else "" for number in range(45)]
        (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in lines))
        with monkeypatch.context() as patch:
            patch.setattr(parts.JsonFormat, "join", fail)
            assert neuron(*self.asked(tmp_path, volume)).exit_code == 1
        return tmp_path / "o.jsonl.parts"

    def asked(self, tmp_path: Path, volume: Path, *more: object) -> list[object]:
        return ["classify", tmp_path / "in.txt", "--out", tmp_path / "o.jsonl", "--checkpoint", volume, *more]

    def check(self, neuron: Neuron, volume: Path, tmp_path: Path) -> None:
        result = neuron(*self.asked(tmp_path, volume))
        assert result.exit_code == 0, result.output
        assert [row["text"] for row in read_rows(tmp_path / "o.jsonl")] == [
            f"text {number}" if number != 7 else "" for number in range(45)
        ]
        assert "in.txt, line 8: the text is empty" in result.stderr, "told again"
        assert not (tmp_path / "o.jsonl.parts").exists()

    def test_parts_are_found_again(self, neuron: Neuron, volume: Path, tmp_path: Path, begun: Path) -> None:
        assert len(list(begun.glob("*.part"))) == 5
        self.check(neuron, volume, tmp_path)

    def test_a_gap_is_filled(self, neuron: Neuron, volume: Path, tmp_path: Path, begun: Path) -> None:
        next(begun.glob("00000002.*.part")).unlink()
        self.check(neuron, volume, tmp_path)

    def test_what_was_left_when_it_was_whole_is_not_continued(
        self, neuron: Neuron, volume: Path, tmp_path: Path, begun: Path
    ) -> None:
        """As a kill leaves it while the directory is deleted, which has no order."""
        for name in ("00000000", "00000001", "asked"):
            next(begun.glob(f"{name}.*")).unlink()
        self.check(neuron, volume, tmp_path)

    @pytest.mark.parametrize("change", ["input", "options", "model", "note"])
    def test_another_question_does_not_go_on(
        self, neuron: Neuron, volume: Path, tmp_path: Path, begun: Path, change: str
    ) -> None:
        more: list[object] = []
        match change:
            case "input":
                (tmp_path / "in.txt").write_text("other\n" * 45)
            case "options":
                more = ["--strict"]
            case "model":
                publish_tiny(tmp_path / "others", step=1, seed=2)
                more = ["--checkpoint", tmp_path / "others"]
            case _:
                (begun / "asked.json").write_text("")
        result = neuron(*self.asked(tmp_path, volume, *more))
        assert result.exit_code == 1
        assert "holds the beginning of another result" in result.stderr


def test_stdin_keeps_the_place_of_every_line(neuron: Neuron, volume: Path) -> None:
    lines = b"\xef\xbb\xbffirst\r\n\nth\x81ird\n&nbsp;\nfifth"
    answer = json.loads(neuron("classify", "--json", "--checkpoint", volume, input=lines).stdout)
    assert [result.get("error", "")[:24] for result in answer["results"]] == [
        "",
        "line 2: the text is empt",
        "line 3: not UTF-8 (byte ",
        "line 4: the text is empt",
        "",
    ]
    plain = neuron("classify", "--checkpoint", volume, input=lines).stdout.splitlines()
    assert [line.split()[-1] for line in plain] == ["first", "empty", "0x81)", "empty", "fifth"]
    assert neuron("classify", "--checkpoint", volume, input=b"\n\n").exit_code == 0


def test_stdin_in_another_format(neuron: Neuron, volume: Path) -> None:
    asked = ("--format", "csv", "--text-field", "b", "--json", "--checkpoint", volume)
    answer = json.loads(neuron("classify", *asked, input=b"a;b\n1;good\n2;bad\n").stdout)
    assert len(answer["results"]) == 2


def test_one_process_at_a_time_writes_a_file(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    source, out = write_rows(tmp_path / "in.csv"), tmp_path / "out.csv"
    (tmp_path / "out.csv.parts").mkdir()
    with exclusively(tmp_path / "out.csv.parts" / "lock", 0):
        refused = neuron("classify", source, "--out", out, "--checkpoint", volume)
    assert refused.exit_code == 1
    assert f"another process is writing {out}" in refused.stderr
    neuron("classify", source, "--out", out, "--checkpoint", volume)
    assert len(read_rows(out)) == len(TEXTS)
