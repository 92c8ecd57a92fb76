"""Files that are nearly something else: their readers must not be misled, and must say what is wrong where it is."""

import json
import os
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from texts.dialect import AS_IT_IS, Dialect
from texts.faults import Faults, TextsError
from texts.labelled import read_labelled
from texts.reader import read_file, read_stream
from texts.sets import SentimentColumns

Read = list[tuple[int, str | None]]


def texts_of(path: Path, text: str | None = None, dialect: Dialect = AS_IT_IS) -> Read:
    with read_file(path, dialect) as records:
        field = records.text_field(text)
        return [pair for chunk in records.chunks([field]) for pair in zip(chunk.places, chunk.columns[0], strict=True)]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"ORCID,text\n1,a\n"),
        ("a.csv", b"FEA1,text\n1,a\n"),
        ("a.csv", b"PAR1 or not,text\n1,a\n"),
        ("a.csv", b"ARROW1 too,text\n1,a\n"),
    ],
)
def test_text_that_begins_as_another_format_does(tmp_path: Path, name: str, content: bytes) -> None:
    assert texts_of(write(tmp_path / name, content), "text") == [(2, "a")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"text": "a"\n{"text": "b"}\n', [(1, None), (2, "b")]),
        (b'["a", "b"]\n{"text": "b"}\n', [(1, None), (2, "b")]),
        (b'{\n "text": "a"}\n{\n "text": "b"\n}', [(1, "a"), (3, "b")]),
        (b'[\n{"text": "a"}\n]\n', [(2, "a")]),
    ],
)
def test_lines_of_json_or_one_document(tmp_path: Path, content: bytes, expected: Read) -> None:
    assert texts_of(write(tmp_path / "a.json", content)) == expected


def test_a_fault_far_from_the_end_of_a_document_is_found_at_once(tmp_path: Path) -> None:
    content = b'[{"text": "a"},\n{"text": oops},\n' + b'{"text": "b"},\n' * 100_000
    with pytest.raises(TextsError, match="line 2: not JSON"):
        texts_of(write(tmp_path / "a.json", content))


def test_json_that_is_deep(tmp_path: Path) -> None:
    deep = '{"k": ' * 1000 + '{"text": "x"}' + "}" * 1000
    found = texts_of(write(tmp_path / "a.jsonl", f'{deep}\n{{"text": "b"}}\n'.encode()))
    assert found[1] == (2, "b")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text\na\n\nb\n", [(2, "a"), (3, ""), (4, "b")]),
        ("text,n\na,1\n\nb,2\n", [(2, "a"), (4, "b")]),
        ("\n\ntext\na\n", [(4, "a")]),
        ("text,label\r\r\na,pos\r\r\nb\rc,neg\r\r\nd,pos\r\r\n", [(2, "a"), (3, "b\rc"), (4, "d")]),
        ('"Name, full";"text"\n1;a\n', [(2, "a")]),
    ],
)
def test_lines_of_csv(tmp_path: Path, content: str, expected: Read) -> None:
    assert texts_of(write(tmp_path / "a.csv", content.encode()), "text") == expected


def test_without_a_header_the_first_row_may_be_broken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'"a"b,c\nd,e\n')
    assert texts_of(path, "2", Dialect(header=False)) == [(1, None), (2, "e")]


def test_columns_of_one_name(tmp_path: Path) -> None:
    column = pa.array(["a"])
    pq.write_table(pa.Table.from_arrays([column, column], names=["text", "text"]), tmp_path / "a.parquet")
    struct = pa.StructArray.from_arrays([column, column], names=["text", "text"])
    with pa.OSFile(str(tmp_path / "a.arrow"), "w") as sink:
        table = pa.table({"review": struct})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    for name, field in (("a.parquet", "text"), ("a.arrow", "review.text")):
        with pytest.raises(TextsError, match="has 2 columns called 'text'"):
            texts_of(tmp_path / name, field)


def test_dictionaries_of_any_strings(tmp_path: Path) -> None:
    words = pa.array(["a", "b"], pa.string_view())
    column = pa.DictionaryArray.from_arrays(pa.array([1, None, 0]), words)
    table = pa.table({"text": column})
    with pa.OSFile(str(tmp_path / "a.arrow"), "w") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert texts_of(tmp_path / "a.arrow") == [(1, "b"), (2, None), (3, "a")]


@pytest.mark.parametrize("encoding", ["hex", "base64", "rot13", "zlib", "uu", "nonsense"])
def test_encodings_that_are_none_of_texts(encoding: str) -> None:
    with pytest.raises(TextsError, match=f"--encoding {encoding}: Python knows no such encoding of texts"):
        Dialect(encoding=encoding)


def test_what_is_not_of_the_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\ntwo\n".encode("utf-16-le") + b"\x00\xd8a\0\n\0")
    with pytest.raises(TextsError, match=r"a\.txt is not utf-16-le, (behind line|at its beginning)"):
        texts_of(path, None, Dialect(encoding="utf-16-le"))
    path = write(tmp_path / "a.jsonl", b'{"text": "\x81"}\n{"text": "\x93"}\n')
    with read_file(path, Dialect(encoding="cp1252")) as records:
        (chunk,) = records.chunks([records.text_field("text")])
    assert chunk.faults == ["not cp1252 (byte 0x81)", None]
    assert chunk.columns[0][1] == "“"


@pytest.mark.parametrize(
    "pieces",
    [[b"\xef\xbb", b"\xbfone\r", b"\ntwo\r\n"], [b"o", b"ne\r", b"\ntwo"], [b'{"te', b'xt": "one"}\n{"text":"two"}']],
)
def test_a_pipe_brings_pieces(pieces: list[bytes]) -> None:
    reading, writing = os.pipe()

    def write_all() -> None:
        with os.fdopen(writing, "wb", buffering=0) as file:
            for piece in pieces:
                file.write(piece)
                threading.Event().wait(0.05)

    thread = threading.Thread(target=write_all)
    thread.start()
    as_json = pieces[0].startswith(b"{")
    with (
        os.fdopen(reading, "rb") as stream,
        read_stream(stream, "stdin", Dialect("json" if as_json else "text")) as records,
    ):
        field = records.text_field(None)
        found = [text for chunk in records.chunks([field]) for text in chunk.columns[0]]
    thread.join()
    assert found == ["one", "two"]


def test_a_label_is_of_one_class() -> None:
    with pytest.raises(TextsError, match="2 is both negative and positive"):
        SentimentColumns(negative=("1", "2"), positive=("2", "3"))
    with pytest.raises(TextsError, match="1 is both"):
        SentimentColumns(negative=("0", "1"))


def test_messages_stay_short(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": "a", "x" * 1000 + str(number): "y" * 1000}) + "\n" for number in range(30))
    with pytest.raises(TextsError) as caught:
        read_labelled(write(tmp_path / "a.jsonl", rows.encode()), Faults())
    assert len(str(caught.value)) < 1000
