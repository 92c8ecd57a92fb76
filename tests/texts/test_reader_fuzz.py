"""Whatever stands in a file: each record is a text or has a fault, or the file is refused; nothing else happens."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.hostile import damaged, distorted
from texts import opening
from texts.dialect import Dialect
from texts.faults import TextsError
from texts.formats import FORMATS, PACKINGS
from texts.reader import read_file
from texts.records import Field

FUZZ = settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
ROWS = [(f'A lamp, number {number}:\n"it" works, café 😀.', ("pos", "neg")[number % 2]) for number in range(12)]
TABLE = pa.table({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]})


def rows_of_csv(delimiter: str = ",") -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows([("text", "label"), *ROWS])
    return buffer.getvalue().encode()


def rows_of_parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, row_group_size=5)
    return sink.getvalue()


def rows_of_arrow() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=5)
    return sink.getvalue()


OBJECTS = [{"text": text, "label": label, "more": {"n": [1, None]}} for text, label in ROWS]
LINES = "".join(json.dumps(one, ensure_ascii=number % 2 == 0) + "\n" for number, one in enumerate(OBJECTS)).encode()
WHOLE = {
    "a.txt": "".join(text.replace("\n", " ") + "\r\n" for text, _ in ROWS).encode(),
    "a.csv": rows_of_csv(),
    "a.tsv": rows_of_csv("\t"),
    "a.jsonl": LINES,
    "a.json": json.dumps(OBJECTS, indent=1).encode(),
    "a.parquet": rows_of_parquet(),
    "a.arrow": rows_of_arrow(),
    "a.csv.gz": gzip.compress(rows_of_csv(), mtime=0),
    "a.jsonl.xz": lzma.compress(LINES),
    "a.txt.bz2": bz2.compress(LINES),
    "a.csv.zst": pa.compress(rows_of_csv(), "zstd").to_pybytes(),
}
NAMES = [f"a{known.suffixes[0]}{packed}" for known in FORMATS for packed in ("", *(p.suffixes[0] for p in PACKINGS))]
DIALECTS = st.builds(
    Dialect,
    format=st.sampled_from([None, *(known.name for known in FORMATS)]),
    delimiter=st.sampled_from([None, ",", ";", "|"]),
    quote=st.sampled_from([None, "", "'"]),
    escape=st.sampled_from([None, "\\"]),
    encoding=st.sampled_from([None, "cp1252", "utf-16", "utf-7", "shift_jis"]),
    header=st.booleans(),
)


def records(path: Path, dialect: Dialect) -> Iterator[tuple[int, str | None, str | None]]:
    """Place, text and fault of every record, if the file can be read."""
    try:
        with read_file(path, dialect) as found:
            text = found.text_field(None, "label")
            label = None if found.format == "text" else Field("label", "label")
            fields = [text] if label is None or "label" not in found.fields() else [text, label]
            for chunk in found.chunks(fields, whole=True):
                assert len(chunk) == len(chunk.values) == len(chunk.places) > 0
                assert all(len(column) == len(chunk) for column in chunk.columns)
                yield from zip(chunk.places, chunk.columns[0], chunk.faults, strict=True)
    except TextsError as error:
        message = str(error)
        assert str(path) in message
        assert len(message) < 1000


def check(path: Path, dialect: Dialect) -> None:
    last = 0
    for place, text, fault in records(path, dialect):
        assert place >= last
        last = place
        assert (text is None) == (fault is not None)
        if text is not None:
            text.encode("utf-8")
        if fault is not None:
            assert len(fault) < 600


@pytest.mark.slow
@given(name=st.sampled_from(sorted(WHOLE)), data=st.data())
@FUZZ
def test_of_what_is_damaged(tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(WHOLE[name])))
    check(path, Dialect())


@pytest.mark.slow
@given(name=st.sampled_from(NAMES), content=st.binary(max_size=300), dialect=DIALECTS)
@FUZZ
def test_of_any_bytes(tmp_path: Path, name: str, content: bytes, dialect: Dialect) -> None:
    (tmp_path / name).write_bytes(content)
    check(tmp_path / name, dialect)


@given(content=st.lists(distorted(OBJECTS[0]), max_size=5).map(b"\n".join), as_array=st.booleans())
@settings(parent=FUZZ, max_examples=100)
def test_of_any_json(tmp_path: Path, content: bytes, as_array: bool) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + content.replace(b"\n", b",\n") + b"]" if as_array else content)
    check(path, Dialect())


@given(
    content=st.text(st.sampled_from("ab,;\"'\\\n\r \u2028é"), max_size=60),
    block=st.integers(1, 9),
    dialect=DIALECTS.filter(lambda dialect: dialect.encoding is None and dialect.format in ("csv", "tsv", "text")),
)
@settings(parent=FUZZ, max_examples=200)
def test_where_blocks_end_changes_nothing(tmp_path: Path, content: str, block: int, dialect: Dialect) -> None:
    path = tmp_path / "a"
    path.write_bytes(f"text,label\n{content}".encode())
    expected = list(records(path, dialect))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "BLOCK_BYTES", block)
        patch.setattr(opening, "HEAD_BYTES", 11 + block)
        assert list(records(path, dialect)) == expected
