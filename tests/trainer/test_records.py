"""Every record of a file is read or named as malformed, whatever its lines are like."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.reviews import PACKED, all_reviews, build_noting, left_in, pack
from texts import opening
from texts.faults import REPORTED
from trainer.corpus.build import build_corpus
from trainer.corpus.corpus import CorpusError


@pytest.mark.parametrize("block_bytes", [1, 7, 64])
def test_lines_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(opening, "BLOCK_BYTES", block_bytes)
    content = b"one\n\nthree is long, long, long\nbroken \xff\nfive"
    manifest, noted = build_noting([pack(tmp_path / "a.txt", content)], tmp_path / "corpus")
    assert sorted(all_reviews(tmp_path / "corpus")) == ["five", "one", "three is long, long, long"]
    assert (manifest.empty, [(line, reason[:9]) for _, line, reason in noted]) == (1, [(4, "not UTF-8")])


def test_a_file_without_newlines_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(opening, "BLOCK_BYTES", 100)
    source = pack(tmp_path / "a.txt", b"short\n" + b"x" * 2000)
    with pytest.raises(CorpusError, match=r"a\.txt, line 2: it is longer than 1,000 characters"):
        build_corpus([source], tmp_path / "corpus", 3)


LINES = (
    b'{"text": "a"}\n{"text": "b"}\n\n{"text": 3}\n{"other": "c"}\n{"text": null}\n[1]\nnonsense\n{"text": "\xff"}\n'
)


ROWS = b'id,text\n1,a\n2,"b\nb"\n\n3\n4,c,d\n5,x\xff\n6,"d"e\n7,c\n'


NOT_UTF8 = "not UTF-8 (byte 0xff): if it is 'ÿ' of Windows-1252, give --encoding cp1252"


@pytest.mark.parametrize("packed", PACKED)
def test_malformed_records_are_counted_and_named(tmp_path: Path, packed: str) -> None:
    files = [
        pack(tmp_path / f"lines.jsonl{packed}", LINES + b'{"text": "cut'),
        pack(tmp_path / f"rows.csv{packed}", ROWS + b'8,"never ends\n\n'),
        pack(tmp_path / f"text.txt{packed}", b"fine\nfine too\nbad \xff byte\n"),
    ]
    manifest, noted = build_noting(files, tmp_path / "corpus", text_field="text")
    assert noted == [
        (files[0].name, 4, "field 'text' is a number, not a string"),
        (files[0].name, 5, "no field 'text'; there are: other"),
        (files[0].name, 6, "the text is null"),
        (files[0].name, 7, "not an object but an array"),
        (files[0].name, 8, "not JSON (invalid literal, expected 'null' at column 1)"),
        (files[0].name, 9, NOT_UTF8),
        (files[0].name, 10, "not JSON (unexpected end of data at column 14)"),
        (files[1].name, 6, "it has 1 column, the header has 2"),
        (files[1].name, 7, "it has 3 columns, the header has 2"),
        (files[1].name, 8, NOT_UTF8),
        (files[1].name, 9, "not CSV (',' expected after '\"')"),
        (files[1].name, 11, "a quote that it opens is not closed as one (unexpected end of data)"),
        (files[2].name, 3, NOT_UTF8),
    ]
    assert sorted(all_reviews(tmp_path / "corpus")) == ["a", "b", "b b", "c", "fine", "fine too"]
    assert (manifest.reviews, manifest.duplicates, manifest.empty, manifest.malformed) == (6, 1, 0, 13)
    assert sorted((source.reviews, source.empty, source.malformed) for source in manifest.sources) == [
        (2, 0, 1),
        (2, 0, 7),
        (3, 0, 5),
    ]


def test_malformed_rows_of_parquet(tmp_path: Path) -> None:
    column = pa.array([b"a", b"bad \xff", None, b"b", b"c"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column, "stars": [1, 2, 3, 4, 5]}), tmp_path / "a.parquet", row_group_size=2)
    pq.write_table(pa.table({"text": column.slice(3).dictionary_encode()}), tmp_path / "b.parquet")
    manifest, noted = build_noting([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "corpus")
    assert noted == [
        ("a.parquet", 2, "not UTF-8 (invalid start byte at byte 4)"),
        ("a.parquet", 3, "the text is null"),
    ]
    assert (manifest.reviews, manifest.duplicates) == (3, 2)


def test_the_first_malformed_records_are_named_and_all_are_counted(tmp_path: Path) -> None:
    content = b"".join(b'{"text": "review %d"}\nbroken\n' % number for number in range(20_000))
    source = pack(tmp_path / "a.jsonl", content)
    manifest, noted = build_noting([source], tmp_path / "corpus", text_field="text")
    assert [line for _, line, _ in noted] == list(range(2, 2 + 2 * REPORTED, 2))
    assert manifest.malformed == manifest.reviews == 20_000


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [("a.jsonl", LINES, 4), ("a.csv", ROWS, 6), ("a.txt", b"fine\n\xff\n", 2), ("a.txt.gz", b"\xff\n", 1)],
)
def test_strict_stops_at_the_first(tmp_path: Path, name: str, content: bytes, line: int) -> None:
    source = pack(tmp_path / name, content * 1000)
    field = None if "txt" in name else "text"
    with pytest.raises(CorpusError, match=rf"{name}, line {line}: .*--strict"):
        build_corpus([source], tmp_path / "corpus", 3, text_field=field, strict=True)
    assert left_in(tmp_path) == []
