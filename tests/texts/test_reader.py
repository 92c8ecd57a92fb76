"""Every record of a file is read or named, whatever wrote it: line ends, quotes, columns, nested fields, nulls."""

import csv
import io
import json
import os
import threading
import time
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from texts import delimited, opening
from texts.dialect import AS_IT_IS, Dialect
from texts.faults import TextsError
from texts.reader import read_file, read_stream
from texts.records import Field

Read = tuple[list[str | None], list[tuple[int, str]]]


def read(path: Path, text: str | None = None, dialect: Dialect = AS_IT_IS) -> Read:
    """Texts, and the places and reasons of the records without."""
    with read_file(path, dialect) as records:
        field = records.text_field(text)
        chunks = list(records.chunks([field]))
    texts = [text for chunk in chunks for text in chunk.columns[0]]
    places = [place for chunk in chunks for place in chunk.places]
    faults = [fault for chunk in chunks for fault in chunk.faults]
    assert all((text is None) == (fault is not None) for text, fault in zip(texts, faults, strict=True))
    return texts, [(place, fault) for place, fault in zip(places, faults, strict=True) if fault is not None]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_a_byte_order_mark_are_no_part_of_a_text(tmp_path: Path, end: str, mark: str) -> None:
    expected = ["one", "", "two, three", "four"]
    assert read(write(tmp_path / "a.txt", mark + end.join([*expected, ""]))) == (expected, [])
    assert read(write(tmp_path / "b.txt", mark + end.join(expected))) == (expected, [])
    rows = ["label,text", 'x,"one', ' and more"', "y,two"]
    assert read(write(tmp_path / "a.csv", mark + end.join(rows)), "text") == ([f"one{end} and more", "two"], [])
    lines = ['{"text": "one"}', "", '{"text": "two"}']
    assert read(write(tmp_path / "a.jsonl", mark + end.join(lines)))[0] == ["one", "two"]


def test_a_stray_carriage_return_ends_no_line(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.txt", "one\rand\ntwo\r\n")) == (["one\rand", "two"], [])


def test_a_mark_within_a_quoted_header(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.csv", '\ufeff"text","label"\n"one","x"\n'), "text") == (["one"], [])


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(opening, "BLOCK_BYTES", block)
    monkeypatch.setattr(opening, "HEAD_BYTES", block)
    assert read(write(tmp_path / "a.txt", "ä long, long line\n\n😀\nend"))[0] == ["ä long, long line", "", "😀", "end"]
    rows = 'text,label\n"ä\n😀",1\nb,0\n'
    assert read(write(tmp_path / "a.csv", rows), "text")[0] == ["ä\n😀", "b"]
    assert read(write(tmp_path / "a.json", '[{"text": "ä long, long one"},\n {"text": "😀"}]'))[0] == [
        "ä long, long one",
        "😀",
    ]


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(opening, "HEAD_BYTES", 100)
    with pytest.raises(TextsError, match=r"a\.txt, line 2: it is longer than 1,000 characters"):
        read(write(tmp_path / "a.txt", "short\n" + "x" * 9_000_000))


class TestQuotes:
    """A quote that is not closed costs its own line, and no other."""

    @pytest.mark.parametrize(
        ("content", "texts", "lines"),
        [
            ('text\none\n"never closed\nthree\nfour\n', ["one", None, "three", "four"], [3]),
            ('id,text\n1,"open\n2,two\n3,three "end"\n4,four\n', [None, "two", 'three "end"', "four"], [2]),
            ('id,text\n1,"open\n2,two\n3,"also open\n4,four\n', [None, "two", None, "four"], [2, 4]),
            ('text,label\n"He said \\"great\\", twice",x\nfine,y\n', [None, "fine"], [2]),
            ('id,text\n1,"a"b\n2,c\n', [None, "c"], [2]),
            ('id,text\n1,a\n2,b,c\n3\n4,d\n', ["a", None, None, "d"], [3, 4]),
            ('id,text\n1,"a\nb",c\n2,d\n', [None, "d"], [2]),
        ],
    )  # fmt: skip
    def test_other_lines_are_read(self, tmp_path: Path, content: str, texts: list[str], lines: list[int]) -> None:
        found, faults = read(write(tmp_path / "a.csv", content), "text")
        assert found == texts
        assert [line for line, _ in faults] == lines

    def test_one_that_reaches_far_is_no_quote(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(delimited, "_MOST_CHARACTERS", 1000)
        content = 'id,text\n1,"open\n' + "".join(f"{number},fine\n" for number in range(500))
        found, faults = read(write(tmp_path / "a.csv", content), "text")
        assert (len(found), [line for line, _ in faults]) == (501, [2])

    def test_too_many_end_with_advice(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(delimited, "_MOST_READ_AGAIN", 1000)
        content = "id,text\n" + "".join(f'{number},"open {number}\n' for number in range(500))
        with pytest.raises(TextsError, match=r"a\.csv, line \d+: too many quotes are not closed: give --quote"):
            read(write(tmp_path / "a.csv", content), "text")

    def test_in_tsv_a_quote_is_a_character(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tsv", 'id\ttext\n1\t"open\n2\ta "b" c\n3\t"d"\n')
        assert read(path, "text") == (['"open', 'a "b" c', '"d"'], [])
        found, faults = read(path, "text", Dialect(quote='"'))
        assert (found, [line for line, _ in faults]) == ([None, 'a "b" c', "d"], [2])

    def test_they_may_be_escaped_or_others(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", 'text,label\n"He said \\"great\\", twice",x\n')
        assert read(path, "text", Dialect(escape="\\")) == (['He said "great", twice'], [])
        assert read(write(tmp_path / "b.csv", "text,label\n'a, b',x\n"), "text", Dialect(quote="'")) == (["a, b"], [])
        assert read(write(tmp_path / "c.csv", 'text\n"a\n'), "text", Dialect(quote="")) == (['"a'], [])


class TestColumns:
    @pytest.mark.parametrize("delimiter", [";", "\t"])
    def test_semicolons_and_tabs_are_seen(self, tmp_path: Path, delimiter: str) -> None:
        path = write(tmp_path / "a.csv", f"text{delimiter}label\nLovely, really.{delimiter}x\n")
        assert read(path, "text") == (["Lovely, really."], [])

    def test_others_are_asked_for(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "text|label\nLovely, really.|x\n")
        with pytest.raises(TextsError, match=r"there are: text\|label; if '\|' separates them, give --delimiter"):
            read(path, "text")
        assert read(path, "text", Dialect(delimiter="|")) == (["Lovely, really."], [])

    def test_without_a_header_they_are_numbered(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", '2,"one\nmore",x\n1,two,y\n')
        assert read(path, "2", Dialect(header=False)) == (["one\nmore", "two"], [])
        with pytest.raises(TextsError, match=r"'text' is not there \(--text-field\); there are: 1, 2, 3"):
            read(path, "text", Dialect(header=False))

    def test_one_that_is_there_twice_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "text,label,text,,\none,x,two,,\n")
        with pytest.raises(TextsError, match=r"a\.csv has 2 columns called 'text'"):
            read(path, "text")
        assert read(path, "label") == (["x"], [])

    def test_messages_about_them_are_short(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", ",".join("x" * 100_000 for _ in range(20)) + "\n")
        with pytest.raises(TextsError, match=r"there are: x+") as caught:
            read(path, "text")
        assert len(str(caught.value)) < 1000
        line = write(tmp_path / "a.jsonl", '{"text": ' + "x" * 1_000_000 + "}\n")
        _, [(_, fault)] = read(line, "text")
        assert len(fault) < 300
        long = "x" * 100_000
        guessed = write(tmp_path / "b.jsonl", f'{{"{long}": "one"}}\n{{"{long}": 2}}\n{{"text": null}}\n')
        with read_file(guessed) as found, pytest.raises(TextsError, match=r"the first objects have 'x+\.\.\.'") as late:
            list(found.chunks([found.text_field(None)]))
        assert len(str(late.value)) < 1000
        faults = [fault for _, fault in read(write(tmp_path / "c.jsonl", f'{{"{long}": 2}}\n{{}}\n'), long)[1]]
        assert len(faults) == 2
        assert all(len(fault) < 300 for fault in faults)

    def test_a_nul_within_a_field(self, tmp_path: Path) -> None:
        assert read(write(tmp_path / "a.csv", 'text\n"a\0b"\n')) == (["a\0b"], [])


class TestEncoding:
    def test_a_broken_record_is_named_and_the_next_is_read(self, tmp_path: Path) -> None:
        expected = (
            [None, "fine"],
            [(1, "not UTF-8 (byte 0x93): if it is '“' of Windows-1252, give --encoding cp1252")],
        )
        assert read(write(tmp_path / "a.txt", b"\x93a\x94\nfine\n")) == expected
        lines = b'{"text": "\x93a"}\n{"text": "fine"}\n'
        assert read(write(tmp_path / "a.jsonl", lines)) == expected
        found, [(line, fault)] = read(write(tmp_path / "a.csv", b"text,x\nfine,1\n\x81a,2\n"), "text")
        assert (found, line, fault) == (["fine", None], 3, "not UTF-8 (byte 0x81)")

    def test_a_column_that_is_not_wanted_may_be_broken(self, tmp_path: Path) -> None:
        assert read(write(tmp_path / "a.csv", b"text,x\nfine,\x93\n"), "text") == (["fine"], [])

    def test_a_lone_surrogate_is_named(self, tmp_path: Path) -> None:
        found, [(line, fault)] = read(write(tmp_path / "a.jsonl", '{"text": "a\\ud83d"}\n{"text": "fine"}\n'))
        assert (found, line) == ([None, "fine"], 1)
        assert "surrogate" in fault
        found, [(line, fault)] = read(write(tmp_path / "a.json", '[{"text": "a\\ud83d"},\n{"text": "fine"}]'))
        assert (found, line) == ([None, "fine"], 1)
        assert "surrogate" in fault


class TestJson:
    def test_what_is_no_object_with_a_text_is_named(self, tmp_path: Path) -> None:
        lines = [
            '{"text": "a"}',
            '{"text": 3}',
            '{"other": "c"}',
            '{"text": null}',
            "[1]",
            "{'text': 'x'}",
            '{"text": "b"}',
        ]
        found, faults = read(write(tmp_path / "a.jsonl", "\n".join(lines)), "text")
        assert found == ["a", None, None, None, None, None, "b"]
        assert [fault.partition(" (")[0] for _, fault in faults] == [
            "field 'text' is a number, not a string",
            "no field 'text'; there are: other",
            "the text is null",
            "not an object but an array",
            "not JSON",
        ]

    def test_nested_fields(self, tmp_path: Path) -> None:
        rows = [{"review": {"text": "a", "stars": 1}}, {"review.text": "b"}, {"review": {"text": "c"}, "x": {"y": "z"}}]
        path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        assert read(path, "review.text") == (["a", "b", "c"], [])
        with pytest.raises(TextsError, match=r"--text-field; there are: review\.text, x\.y"):
            read(path)
        table = pa.table({"review": [{"text": "a", "stars": 1}, {"text": None, "stars": 2}, None]})
        pq.write_table(table, tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet") == (["a", None, None], [(2, "the text is null"), (3, "the text is null")])

    def test_a_key_that_comes_late(self, tmp_path: Path) -> None:
        lines = [json.dumps({"id": number}) for number in range(150)] + ['{"id": 1, "text": "late"}']
        found, faults = read(write(tmp_path / "a.jsonl", "\n".join(lines)))
        assert (found[-1], len(faults)) == ("late", 150)

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            ('[{"text": "a"}, {"text": "b"', "line 1: not JSON"),
            ('[{"text": "a"},\n{"text": NaN}]', "line 2: NaN is not JSON"),
            ('[{"text": "a"}]\n[', r"line 2: '\[' is not expected"),
            ('[{"text": "a"}]\n{"text": "b"}', "line 2: the array has ended"),
            ("[" * 100_000, r"line 1: '\[' is not expected"),
            ('[\n{"text": "a"}\n', "line 3: not JSON"),
        ],
    )
    def test_a_broken_document_says_where(self, tmp_path: Path, content: str, what: str) -> None:
        with pytest.raises(TextsError, match=rf"a\.json, {what}.*what follows cannot be read"):
            read(write(tmp_path / "a.json", content), "text")

    def test_in_an_array_others_than_objects_are_named(self, tmp_path: Path) -> None:
        found, faults = read(write(tmp_path / "a.json", '["x",\n {"text": "b"}, 3]'), "text")
        assert (found, [line for line, _ in faults]) == ([None, "b", None], [1, 2])


class TestParquet:
    @pytest.mark.parametrize(
        "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str
    )
    def test_strings_of_any_kind(self, tmp_path: Path, kind: pa.DataType) -> None:
        table = pa.table({"text": pa.array(["a", "b", None, "a"]).cast(kind), "n": [1, 2, 3, 4]})
        with pa.OSFile(str(tmp_path / "a.arrow"), "w") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        assert read(tmp_path / "a.arrow") == (["a", "b", None, "a"], [(3, "the text is null")])
        pq.write_table(table, tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet") == (["a", "b", None, "a"], [(3, "the text is null")])

    def test_a_column_of_other_things_is_refused(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"text": [1, 2], "a": ["x", "y"], "b": ["x", "y"]}), tmp_path / "a.parquet")
        with pytest.raises(TextsError, match=r"'text' holds no text \(--text-field\); there are: a, b"):
            read(tmp_path / "a.parquet", "text")

    def test_bytes_that_are_no_text_are_named(self, tmp_path: Path) -> None:
        column = pa.array([b"a", b"bad \xff", None], pa.binary()).view(pa.string())
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        found, faults = read(tmp_path / "a.parquet")
        assert (found, [line for line, _ in faults]) == (["a", None, None], [2, 3])


Table = list[tuple[str, str]]
# A file that holds too many control codes is taken for a binary one.
VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\t\n\r\v\f\x1b"), max_size=20)
TABLES = st.lists(st.tuples(VALUES, st.sampled_from(["pos", "neg", "", "3 stars"])), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


class TestAnyTable:
    """Tables of any strings, written by what people use, are read back equal."""

    def same(self, path: Path, table: Table, dialect: Dialect = AS_IT_IS) -> None:
        with read_file(path, dialect) as records:
            fields = [records.text_field("text", "label"), Field("label", "text")]
            chunks = list(records.chunks(fields))
        assert [fault for chunk in chunks for fault in chunk.faults if fault] == []
        assert [row for chunk in chunks for row in zip(*chunk.columns, strict=True)] == table

    @given(TABLES, st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n"]), st.booleans())
    def test_of_the_csv_module(self, place: Path, table: Table, delimiter: str, end: str, all_quoted: bool) -> None:
        buffer = io.StringIO()
        quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end, quoting=quoting)
        writer.writerows([("text", "label"), *table])
        self.same(write(place / "a.csv", buffer.getvalue()), table, Dialect(delimiter=delimiter))

    @given(TABLES, st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet"]))
    def test_of_pandas(self, place: Path, table: Table, suffix: str) -> None:
        frame, path, dialect = pd.DataFrame(table, columns=["text", "label"]), place / f"a{suffix}", AS_IT_IS
        match suffix:
            case ".csv":
                frame.to_csv(path, index=False)
            case ".tsv":
                frame.to_csv(path, index=False, sep="\t")
                dialect = Dialect(quote='"')
            case ".jsonl":
                frame.to_json(path, orient="records", lines=True)
            case ".json":
                frame.to_json(path, orient="records", indent=1)
            case _:
                frame.astype("category").to_parquet(path)
        self.same(path, table, dialect)

    @given(TABLES, st.sampled_from([".csv", ".jsonl", ".parquet", ".arrow"]))
    def test_of_polars(self, place: Path, table: Table, suffix: str) -> None:
        frame, path = pl.DataFrame(table, schema=["text", "label"], orient="row"), place / f"b{suffix}"
        kind = {".csv": "csv", ".jsonl": "ndjson", ".parquet": "parquet", ".arrow": "ipc"}[suffix]
        getattr(frame, f"write_{kind}")(path)
        self.same(path, table)

    @given(TABLES, st.sampled_from([".csv", ".json", ".parquet", ".csv.gz"]))
    def test_of_duckdb(self, place: Path, table: Table, suffix: str) -> None:
        path = place / f"c{suffix}"
        with duckdb.connect() as connection:
            connection.execute("CREATE TABLE t (text VARCHAR, label VARCHAR)")
            connection.executemany("INSERT INTO t VALUES (?, ?)", table)
            connection.execute(f"COPY t TO '{path}'")
        self.same(path, table)


def test_a_guess_that_later_records_make_doubtful_is_none(tmp_path: Path) -> None:
    first = [{"title": "One.", "id": number} for number in range(120)]
    path = write_lines(tmp_path / "late.jsonl", [*first, {"title": "Two.", "text": "It broke."}])
    with read_file(path) as records, pytest.raises(TextsError, match=r"line 121: .* 'title', and this one has 'text'"):
        list(records.chunks([records.text_field(None)]))
    with read_file(path) as records:
        named = [text for chunk in records.chunks([records.text_field("title")]) for text in chunk.columns[0]]
    assert named == ["One."] * 120 + ["Two."]


def test_the_label_is_not_taken_for_the_text(tmp_path: Path) -> None:
    """Also by commands that need no label."""
    late = [*({"label": "pos", "id": number} for number in range(120)), {"label": "neg", "text": "It broke."}]
    with read_file(write_lines(tmp_path / "late.jsonl", late)) as records:
        assert records.text_field(None).name == "text"
    (tmp_path / "in.csv").write_text("label,review\npos,Lovely.\n")
    with read_file(tmp_path / "in.csv") as records:
        assert records.text_field(None).name == "review"


def write_lines(path: Path, values: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def test_a_backslash_before_a_quote_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('text\n"He said \\"great\\", twice"\nfine\n')
    with read_file(tmp_path / "in.csv") as records:
        faults = [fault for chunk in records.chunks([records.text_field(None)]) for fault in chunk.faults]
    assert "give --escape '\\'" in str(faults[0])
    assert faults[1] is None


@pytest.mark.parametrize("value", ["5", "null", "true", '"text"', "[1]"])
def test_what_is_no_object_costs_its_line_where_the_field_is_guessed(tmp_path: Path, value: str) -> None:
    (tmp_path / "in.jsonl").write_text('{"review": "Fine."}\n' + value + '\n{"review": "Bad."}\n')
    with read_file(tmp_path / "in.jsonl") as records:
        (chunk,) = records.chunks([records.text_field(None)])
    assert chunk.columns[0] == ["Fine.", None, "Bad."]
    assert [fault is None for fault in chunk.faults] == [True, False, True]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_a_line_of_json_may_have_other_line_separators_within(tmp_path: Path, separator: str) -> None:
    lines = f'{{"text": "one{separator}two"}}', "{broken", '{"text": "three"}'
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    with read_file(tmp_path / "in.jsonl") as records:
        found = [text for chunk in records.chunks([records.text_field(None)]) for text in chunk.columns[0]]
    assert found == [f"one{separator}two", None, "three"]


def test_blank_lines_before_the_header_of_any_number(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("\n" * 70_000 + "text,label\nFine.,1\n")
    with read_file(tmp_path / "in.csv") as records:
        assert [chunk.columns[0] for chunk in records.chunks([records.text_field(None)])] == [["Fine."]]


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("in.csv", ["\n", "text,label\n", "Fine.,1\n"]),
        ("in.json", ["{\n", '"text": "Fine."\n}\n']),
        ("in.json", ["\n", "[\n", '{"text": "Fine."}\n]']),
        ("in.jsonl", ['{"text": ', '"Fine."}\n']),
    ],
)
def test_a_pipe_that_brings_little_at_first(name: str, pieces: list[str]) -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            for piece in pieces:
                pipe.write(piece.encode())
                time.sleep(0.05)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb") as stream, read_stream(stream, name, AS_IT_IS) as records:
        found = [text for chunk in records.chunks([records.text_field(None)]) for text in chunk.columns[0]]
    thread.join()
    assert found == ["Fine."]
