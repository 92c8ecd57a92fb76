"""A file is what its content says, else what its name says; what is no file of texts is refused by its name."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from texts.dialect import AS_IT_IS, Dialect
from texts.faults import TextsError
from texts.formats import FORMATS, PACKINGS
from texts.reader import read_file

TEXTS = ["A lamp that does what it says.", "Lovely jug, we use it daily.", "café 😀"]
LINES = "".join(f"{text}\n" for text in TEXTS).encode()
OBJECTS = "".join(f'{{"text": "{text}", "id": {number}}}\n' for number, text in enumerate(TEXTS)).encode()


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, "zstd", asbytes=True))


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstd,
}


def parquet(texts: list[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), sink)
    return sink.getvalue()


def arrow(texts: list[str], stream: bool) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"text": texts})
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def read(path: Path, dialect: Dialect = AS_IT_IS) -> list[str | None]:
    with read_file(path, dialect) as records:
        field = records.text_field(None)
        return [text for chunk in records.chunks([field]) for text in chunk.columns[0]]


def test_every_packing_has_a_test() -> None:
    assert {suffix for packing in PACKINGS for suffix in packing.suffixes} == {".gzip", ".zstd", *PACK}


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("suffix", [".txt", ".JSONL", ".parquet"])
def test_a_packing_is_seen_by_content(tmp_path: Path, packing: str, suffix: str, named: bool) -> None:
    content = {".txt": LINES, ".JSONL": OBJECTS, ".parquet": parquet(TEXTS)}[suffix]
    path = tmp_path / f"a{suffix}{packing.upper() if named else ''}"
    path.write_bytes(PACK[packing](content))
    assert read(path) == TEXTS


@pytest.mark.parametrize("packing", PACK)
def test_several_members_frames_and_streams_are_one_file(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(PACK[packing](LINES) + PACK[packing](b"more\n"))
    assert read(path) == [*TEXTS, "more"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("suffix", [".arrow", ".dat"])
def test_arrow_is_seen_by_content(tmp_path: Path, stream: bool, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(arrow(TEXTS, stream))
    assert read(path) == TEXTS


@pytest.mark.parametrize(
    "content",
    [
        OBJECTS,
        b"\xef\xbb\xbf" + OBJECTS,
        b"[" + OBJECTS.replace(b"}\n{", b"},\n{") + b"]",
        OBJECTS.replace(b', "id"', b',\n "id"'),
    ],
    ids=["lines", "BOM", "array", "over several lines"],
)
@pytest.mark.parametrize("name", ["a.json", "a.ndjson", "a.JSONL", "a.unknown", "a"])
def test_json_is_json_whatever_its_shape(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == TEXTS


def zipped(content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.csv", content)
    return sink.getvalue()


def tarred(content: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.csv.zip", zipped(LINES), "a ZIP archive"),
        ("a.xlsx", zipped(LINES), "as Office documents are"),
        ("a.tar", tarred(LINES), "a tar archive: unpack it"),
        ("a.tar.gz", gzip.compress(tarred(LINES)), "a tar archive: unpack it"),
        ("a.txt", "\ufeffOne.\nTwo.\n".encode("utf-16-le"), r"UTF-16: .*--encoding utf-16"),
        ("a.csv", "text\nOne, and a few more.\n".encode("utf-16-be"), r"UTF-16: .*--encoding utf-16"),
        ("a.csv", "text\nOne.\n".encode("utf-32"), "UTF-32"),
        ("a.csv", "text\nOne, and a few more.\n".encode("utf-32-le"), "UTF-32"),
        ("a.txt", bytes(range(256)) * 4 + bytes(99), "binary"),
        ("a.txt", bytes([1, 2, 3, 4, 5]) * 40, "binary"),
        ("a.csv", b"%PDF-1.7\n", "a PDF document"),
        ("a.db", b"SQLite format 3\0", "an SQLite database"),
        ("a.txt", b"\x93NUMPY\x01\0", "a NumPy array"),
        ("a.parquet", LINES, "not parquet"),
        ("a.csv.gz", LINES, "not gzip, as its name says"),
        ("a.gz", gzip.compress(LINES), "its name does not say what it is: give --format"),
        ("reviews", LINES, "its name does not say what it is: give --format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)  # fmt: skip
def test_what_is_no_file_of_texts_is_refused_by_name(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextsError, match=rf"{name}.* {what}"):
        read(tmp_path / name)


def test_a_format_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "reviews").write_bytes(LINES)
    assert read(tmp_path / "reviews", Dialect(format="text")) == TEXTS
    (tmp_path / "a.txt").write_bytes(OBJECTS)
    assert read(tmp_path / "a.txt", Dialect(format="json")) == TEXTS
    (tmp_path / "b.txt").write_bytes(parquet(TEXTS))
    assert read(tmp_path / "b.txt") == TEXTS
    with pytest.raises(TextsError, match="is parquet, not csv"):
        read(tmp_path / "b.txt", Dialect(format="csv"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp1252", "shift_jis"])
def test_another_encoding_may_be_named(tmp_path: Path, encoding: str) -> None:
    texts = ["Ein Buch.", {"cp1252": "“café” – schön", "shift_jis": "とても良い"}.get(encoding, "日本 😀")]
    (tmp_path / "a.txt").write_bytes("\r\n".join([*texts, ""]).encode(encoding))
    assert read(tmp_path / "a.txt", Dialect(encoding=encoding)) == texts


def test_each_suffix_names_one_format() -> None:
    suffixes = [suffix for known in FORMATS for suffix in known.suffixes]
    assert len(suffixes) == len(set(suffixes))


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"delimiter": "::"}, "--delimiter is '::'"),
        ({"delimiter": ""}, "--delimiter is ''"),
        ({"quote": "\n"}, "--quote is"),
        ({"escape": ""}, "--escape is"),
        ({"delimiter": ";", "quote": ";"}, "must differ"),
        ({"escape": '"'}, "--escape is the quote itself"),
        ({"encoding": "utf-7000"}, "--encoding utf-7000"),
    ],
)
def test_a_wrong_dialect_names_its_option(wrong: dict[str, str], what: str) -> None:
    with pytest.raises(TextsError, match=what):
        Dialect(**wrong)
