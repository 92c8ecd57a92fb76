"""Labelled files give their texts and labels in order; what has none is told; the parts of a set are found by names."""

from pathlib import Path

import pytest

from tests.conftest import write_packed
from texts.dialect import Dialect
from texts.faults import REPORTED, Fault, Faults, TextsError
from texts.labelled import WHERE_THEY_ARE, Columns, Labelled, distinct, joined, read_columns, read_labelled
from texts.sets import SST, Sentiment, SentimentColumns, find_parts, read_sentiment

CSV = 'label,sentence\n1,good\n0,"bad, ""really""\nbad"\n1,café 😀\n'
EXPECTED = Labelled(["good", 'bad, "really"\nbad', "café 😀"], ["1", "0", "1"])


def write(path: Path, content: str | bytes) -> Path:
    return write_packed(path, content.encode() if isinstance(content, str) else content)


def read(path: Path, columns: Columns = WHERE_THEY_ARE) -> tuple[Labelled, list[str]]:
    told: list[Fault] = []
    found = read_labelled(path, Faults(told.append), columns)
    assert {fault.file for fault in told} <= {str(path)}
    return found, [f"{fault.place}: {fault.reason}" for fault in told]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.xz", "a.csv.gz"])
def test_plain_and_packed_files_read_alike(tmp_path: Path, name: str) -> None:
    assert read(write(tmp_path / name, CSV)) == (EXPECTED, [])


@pytest.mark.parametrize(
    "ordered",
    [["-1", "1"], ["-2", "-1.5", "0", "+1", "2"], ["1.0", "2.0", "10.0"], ["2", "10", "a", "b"], ["1", "1e9", "²"]],
)
def test_classes_are_in_the_order_of_their_numbers(ordered: list[str]) -> None:
    assert distinct(reversed(ordered)) == ordered
    assert distinct(sorted(ordered) * 2) == ordered


def test_columns_in_any_order_and_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "title,text,stars\nT1,first,5\nT2,second,1\n")
    assert read(path, Columns("text", "stars"))[0] == Labelled(["first", "second"], ["5", "1"])
    assert read(path, Columns("title", "stars"))[0].texts == ["T1", "T2"]
    assert read(path, Columns(label="stars"))[0].texts == ["first", "second"]  # of several, `text`
    swapped = write(tmp_path / "b.csv", "text,label\nonly,1\n")
    assert read(swapped)[0] == Labelled(["only"], ["1"])


@pytest.mark.parametrize(
    ("content", "text", "what"),
    [
        ("a,b,label\n1,2,3\n", None, "name the field that holds the text with --text-field; there are: a, b"),
        ("a,text\n1,2\n", None, r"the label field 'label' is not there \(--label-field\); there are: a, text"),
        ("a,label\n1,2\n", "missing", r"the text field 'missing' is not there \(--text-field\); there are: a, label"),
        ("label\n1\n", None, ".*there are: none"),
        ("", None, "the file is empty"),
        ("text;label|x\n1;2|3\n", None, r".*there are: text;label\|x; if ';' separates them, give --delimiter"),
    ],
)
def test_columns_that_are_not_clear_are_named(tmp_path: Path, content: str, text: str | None, what: str) -> None:
    with pytest.raises(TextsError, match=rf"a\.csv: {what}"):
        read(write(tmp_path / "a.csv", content), Columns(text, dialect=Dialect(delimiter=",")))


def test_a_text_may_be_longer_than_the_csv_modules_limit(tmp_path: Path) -> None:
    long = "x" * 300_000
    assert read(write(tmp_path / "a.csv", f"label,text\n1,{long}\n"))[0].texts == [long]


def test_records_without_label_or_text_are_told(tmp_path: Path) -> None:
    rows = ["label,text", "1,good", ",none", "nan,as pandas has it", "0,", "0,&nbsp;", "0", "1,good,more", "0,bad"]
    assert read(write(tmp_path / "a.csv", "\n".join(rows))) == (
        Labelled(["good", "bad"], ["1", "0"]),
        [
            "line 3: it has no label",
            "line 4: it has no label but 'nan'",
            "line 5: the text is empty",
            "line 6: the text is empty",
            "line 7: it has 1 column, the header has 2",
            "line 8: it has 3 columns, the header has 2",
        ],
    )


def test_a_label_of_a_thousand_blanks_is_told_in_short(tmp_path: Path) -> None:
    _, [fault] = read(write(tmp_path / "a.csv", f"label,text\n1,good\n{' ' * 1000},none\n"))
    assert fault == f"line 3: it has no label but '{' ' * 40}...'"


def test_the_first_are_told_and_all_are_counted(tmp_path: Path) -> None:
    told: list[Fault] = []
    faults = Faults(told.append)
    read_labelled(write(tmp_path / "a.csv", "label,text\n1,a\n" + ",b\n" * 50), faults)
    assert (len(told), faults.count, faults.untold) == (REPORTED, 50, 50 - REPORTED)
    with pytest.raises(TextsError, match=r"a\.csv, line 3: it has no label \(--strict\)"):
        read_labelled(tmp_path / "a.csv", Faults(strict=True))


@pytest.mark.parametrize(
    ("content", "what"),
    [("label,text\n", "is empty"), ("label,text\n,a\n,b\n", "none of its 2 records is a labelled text")],
)
def test_nothing_is_left(tmp_path: Path, content: str, what: str) -> None:
    with pytest.raises(TextsError, match=rf"a\.csv.* {what}"):
        read(write(tmp_path / "a.csv", content))


def test_labels_of_json_and_of_numbers(tmp_path: Path) -> None:
    labels = ("1", '"0"', "2.0", "0.5", "true", "null", "[]", "{}")
    lines = [f'{{"text": "a", "label": {label}}}' for label in labels]
    found, told = read(write(tmp_path / "a.jsonl", "\n".join([*lines, '{"text": "b"}'])))
    assert found.labels == ["1", "0", "2", "0.5", "true"]
    assert told == [
        "line 6: it has no label",
        "line 7: label 'label' is an array",
        "line 8: label 'label' is an object",
        "line 9: it has no label",
    ]


def test_several_texts_of_a_record_stay_together(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a,b,label\none,two,1\n,three,1\nfour,five,0\nsix,seven,\n")
    assert read_columns(path, Faults(), ["a", "b"], "label") == ([["one", "four"], ["two", "five"]], ["1", "0"])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TextsError, match=r"nowhere\.csv cannot be read: No such file"):
        read(tmp_path / "nowhere.csv")


def test_first_and_joined() -> None:
    assert EXPECTED.first(2) == Labelled(EXPECTED.texts[:2], ["1", "0"])
    assert EXPECTED.first(None) == EXPECTED
    other = Labelled(["x"], ["0"])
    assert joined(iter([EXPECTED, other])) == Labelled([*EXPECTED.texts, "x"], ["1", "0", "1", "0"])


SMALL = Labelled(["good", "bad"], ["1", "0"])


@pytest.mark.parametrize("part", ["train", "valid", "test"])
@pytest.mark.parametrize("label", ["2", "-1", "positive", "", "01"])
def test_sentiment_has_labels_0_and_1_alone(part: str, label: str) -> None:
    odd = Labelled([*SMALL.texts, "x"], [*SMALL.labels, label])
    with pytest.raises(TextsError, match=rf"^{part}: labels .* neither 0 .* nor 1"):
        Sentiment(**{"train": SMALL, "valid": SMALL, "test": SMALL} | {part: odd})
    assert len(Sentiment(SMALL, SMALL)) == 4


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (("neg", "pos"), {}),
        (("negative", "positive"), {}),
        (("0", "1"), {}),
        (("1.0", "5.0"), {"negative": ["1.0", "2.0"], "positive": ["5.0"]}),
    ],
)
def test_which_labels_are_negative_and_positive(
    tmp_path: Path, labels: tuple[str, str], named: dict[str, list[str]]
) -> None:
    path = write(tmp_path / "a.csv", f"review,stars\nbad,{labels[0]}\ngood,{labels[1]}\n")
    columns = SentimentColumns(Columns("review", "stars"), **named)
    assert columns.read(path, Faults()) == Labelled(["bad", "good"], ["0", "1"])
    with pytest.raises(TextsError, match=r"a\.csv: labels .* neither negative \(x\) nor positive \(y\): say which are"):
        SentimentColumns(Columns("review", "stars"), ["x"], ["y"]).read(path, Faults())


@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "valid.csv", "test.csv"),
        ("train.csv.gz", "valid.csv.xz", "test.csv"),
        ("sst_binary_train.csv", "sst_binary_dev.csv", "sst_binary_test.csv"),
        ("train_binary_sent.csv", "dev_binary_sent.csv", "test_binary_sent.csv"),
        ("train.csv", "val.csv", None),
        ("TRAIN.CSV", "dev.csv", None),
    ],
)
def test_the_three_parts_are_found_by_their_names(tmp_path: Path, names: tuple[str | None, ...]) -> None:
    for number, name in enumerate(names):
        if name is not None:
            write(tmp_path / name, f"label,text\n1,good {number}\n0,bad {number}\n")
    write(tmp_path / "imdb_train.csv", "label,text\n1,another set\n")
    found = read_sentiment(tmp_path, Faults())
    assert found.train.texts == ["good 0", "bad 0"]
    assert found.valid.texts == ["good 1", "bad 1"]
    assert (found.test is None) == (names[2] is None)
    assert found.test is None or found.test.texts == ["good 2", "bad 2"]


def test_parts_in_any_format(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", "label\ttext\n1\tgood\n")
    write(tmp_path / "val.jsonl.gz", '{"label": 1, "text": "fine"}\n')
    assert read_sentiment(tmp_path, Faults()).valid.texts == ["fine"]


def test_a_part_that_is_missing_or_there_twice_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", CSV)
    with pytest.raises(TextsError, match=r"holds no sst_binary_dev\.csv or .*valid\.csv or val\.csv"):
        find_parts(tmp_path, SST)
    write(tmp_path / "valid.csv", CSV)
    write(tmp_path / "sst_binary_dev.csv.xz", CSV)
    with pytest.raises(TextsError, match=r"holds sst_binary_dev\.csv\.xz and valid\.csv: leave one"):
        find_parts(tmp_path, SST)
