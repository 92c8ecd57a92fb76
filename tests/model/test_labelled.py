"""Labelled CSV files, plain or packed, give their texts and labels in order, or an error that names the fault."""

import gzip
import lzma
from pathlib import Path

import pytest

from model.texts.labelled import Labelled, LabelledError, Sentiment, joined, read_labelled, read_sentiment
from tests.conftest import write_packed

CSV = 'label,sentence\n1,good\n0,"bad, ""really""\nbad"\n1,café 😀\n'
EXPECTED = Labelled(["good", 'bad, "really"\nbad', "café 😀"], ["1", "0", "1"])


def write(path: Path, content: str | bytes) -> Path:
    return write_packed(path, content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.xz", "a.csv.gz"])
def test_plain_and_packed_files_read_alike(tmp_path: Path, name: str) -> None:
    assert read_labelled(write(tmp_path / name, CSV)) == EXPECTED


def test_columns_in_any_order_and_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "title,text,stars\nT1,first,5\nT2,second,1\n")
    assert read_labelled(path, "text", "stars") == Labelled(["first", "second"], ["5", "1"])
    assert read_labelled(path, "title", "stars").texts == ["T1", "T2"]
    swapped = write(tmp_path / "b.csv", "text,label\nonly,1\n")
    assert read_labelled(swapped) == Labelled(["only"], ["1"])


@pytest.mark.parametrize(
    ("content", "text_column"),
    [
        ("a,b,label\n1,2,3\n", None),  # which of the two is the text?
        ("a,b\n1,2\n", None),
        ("a,label\n1,2\n", "missing"),
        ("label\n1\n", None),
        ("", None),
    ],
)
def test_columns_that_are_not_clear_are_named(tmp_path: Path, content: str, text_column: str | None) -> None:
    with pytest.raises(LabelledError, match=r"a\.csv: its columns are"):
        read_labelled(write(tmp_path / "a.csv", content), text_column)


def test_a_text_may_be_longer_than_the_csv_modules_limit(tmp_path: Path) -> None:
    long = "x" * 300_000
    assert read_labelled(write(tmp_path / "a.csv", f"label,text\n1,{long}\n")).texts == [long]


def test_line_ends_inside_a_text_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'label,text\r\n1,"one\r\ntwo\rthree"\r\n')
    assert read_labelled(path) == Labelled(["one\r\ntwo\rthree"], ["1"])


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(LabelledError, match="no rows"):
        read_labelled(write(tmp_path / "a.csv", "label,text\n"))


def test_a_short_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelledError, match=r"a\.csv, line 3"):
        read_labelled(write(tmp_path / "a.csv", "label,text\n1,good\n0\n1,good\n"))


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("latin.csv", "label,text\n1,café\n".encode("latin-1")),
        ("wrong.csv.xz", b"label,text\n1,good\n"),
        ("wrong.csv.gz", b"label,text\n1,good\n"),
        ("cut.csv.xz", lzma.compress(CSV.encode() * 50)[:-30]),
        ("cut.csv.gz", gzip.compress(CSV.encode() * 50, mtime=0)[:-30]),
    ],
    ids=["not UTF-8", "no xz", "no gzip", "cut xz", "cut gzip"],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, raw: bytes) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(LabelledError, match=name):
        read_labelled(tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LabelledError, match=r"nowhere\.csv"):
        read_labelled(tmp_path / "nowhere.csv")


def test_head_and_joined() -> None:
    assert EXPECTED.first(2) == Labelled(EXPECTED.texts[:2], ["1", "0"])
    assert EXPECTED.first(None) == EXPECTED
    other = Labelled(["x"], ["0"])
    assert joined(iter([EXPECTED, other])) == Labelled([*EXPECTED.texts, "x"], ["1", "0", "1", "0"])


SMALL = Labelled(["good", "bad"], ["1", "0"])


@pytest.mark.parametrize("part", ["train", "valid", "test"])
@pytest.mark.parametrize("label", ["2", "-1", "positive", "", "01"])
def test_sentiment_has_labels_0_and_1_alone(part: str, label: str) -> None:
    odd = Labelled([*SMALL.texts, "x"], [*SMALL.labels, label])
    with pytest.raises(LabelledError, match=rf"^{part}: labels .* neither 0 .* nor 1"):
        Sentiment(**{"train": SMALL, "valid": SMALL, "test": SMALL} | {part: odd})
    assert len(Sentiment(SMALL, SMALL)) == 4


@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "valid.csv", "test.csv"),
        ("train.csv.gz", "valid.csv.xz", "test.csv"),
        ("sst_binary_train.csv", "sst_binary_dev.csv", "sst_binary_test.csv"),
        ("sst_binary_train.csv.xz", "valid.csv", None),
        ("train.csv", "sst_binary_dev.csv", None),
    ],
)
def test_the_three_parts_are_found_by_their_names(tmp_path: Path, names: tuple[str | None, ...]) -> None:
    for number, name in enumerate(names):
        if name is not None:
            write(tmp_path / name, f"label,text\n1,good {number}\n0,bad {number}\n")
    write(tmp_path / "imdb_train.csv", "label,text\n1,another set\n")
    found = read_sentiment(tmp_path)
    assert found.train.texts == ["good 0", "bad 0"]
    assert found.valid.texts == ["good 1", "bad 1"]
    assert (found.test is None) == (names[2] is None)
    assert found.test is None or found.test.texts == ["good 2", "bad 2"]


def test_a_part_that_is_missing_or_there_twice_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", CSV)
    with pytest.raises(LabelledError, match=r"holds no valid\.csv or sst_binary_dev\.csv"):
        read_sentiment(tmp_path)
    write(tmp_path / "valid.csv", CSV)
    write(tmp_path / "sst_binary_dev.csv.xz", CSV)
    with pytest.raises(LabelledError, match=r"holds valid\.csv and sst_binary_dev\.csv\.xz: leave one"):
        read_sentiment(tmp_path)


LINES = '{"text": "good", "label": 1}\n\n{"text": "b\u00e4d", "label": "0"}\n'


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz"])
def test_json_lines_read_alike(tmp_path: Path, name: str) -> None:
    assert read_labelled(write_packed(tmp_path / name, LINES.encode())) == Labelled(["good", "bäd"], ["1", "0"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "line 1: it is not JSON"),
        ("[" * 100_000, "line 1: it is not JSON"),
        (LINES + "[]", "line 4: its fields are \\[\\]"),
        ('{"text": "a"}', "line 1: its fields are"),
        ('{"text": "a", "title": "b", "label": 1}', "name those of the text and the label"),
        ('{"text": 1, "label": 1}', "the text is not a string"),
        ('{"text": "a", "label": true}', "the label is neither a string nor a whole number"),
        ('{"text": "a", "label": 0.5}', "the label is neither a string nor a whole number"),
        ("\n", "holds no rows"),
    ],
)
def test_json_lines_that_are_not_labelled_texts_are_named(tmp_path: Path, content: str, words: str) -> None:
    path = write_packed(tmp_path / "a.jsonl", content.encode())
    with pytest.raises(LabelledError, match=rf"a\.jsonl.*{words}"):
        read_labelled(path)
