"""A corpus holds every different review once, in equal shards, the same bytes for the same reviews and seed."""

import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from model.texts.preparation import clean, prepare_prompt
from tests.support.runs import write_corpus
from trainer.corpus import sources
from trainer.corpus.build import REPORTED, BuildProgress, Malformed, build_corpus
from trainer.corpus.cleaning import parse_size
from trainer.corpus.corpus import Corpus, CorpusError, CorpusManifest
from trainer.corpus.shuffle import Buckets, Shards, shard_counts

REVIEWS = [f"review number {number}, {'good' if number % 3 else 'bad'}" for number in range(53)]
FORMATS = [".txt", ".csv", ".tsv", ".jsonl", ".parquet"]
PACKED = ["", ".gz", ".xz", ".zst"]


def pack(path: Path, content: bytes) -> Path:
    """Write a file, packed as its suffix says."""
    if path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(content)
    else:
        compress: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".xz": lzma.compress}
        path.write_bytes(compress.get(path.suffix, bytes)(content))
    return path


def write(path: Path, texts: list[str]) -> Path:
    """Write reviews in the format that the suffixes say; all but text in a field `text` beside others."""
    match path.name.removesuffix(path.suffix if path.suffix in PACKED else "").rpartition(".")[2]:
        case "csv" | "tsv" as kind:
            buffer = io.StringIO()
            writer = csv.writer(buffer, delimiter="," if kind == "csv" else "\t", lineterminator="\n")
            writer.writerows([["id", "text"], *enumerate(texts)])
            content = buffer.getvalue().encode()
        case "jsonl":
            content = "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()
        case "parquet":
            sink = io.BytesIO()
            pq.write_table(pa.table({"id": ["x"] * len(texts), "text": texts}), sink, row_group_size=20)
            content = sink.getvalue()
        case _:
            content = "".join(text + "\n" for text in texts).encode()
    return pack(path, content)


def field_of(path: Path) -> str | None:
    return None if ".txt" in path.name else "text"


def shard_bytes(corpus: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(corpus.glob("shard-*.bin"))]


def reviews_of(shard: bytes) -> list[str]:
    assert shard.startswith(b"\n ")
    return [review.removeprefix(" ") for review in shard.decode().split("\n")[1:]]


def all_reviews(corpus: Path) -> list[str]:
    return [review for shard in shard_bytes(corpus) for review in reviews_of(shard)]


def left_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if "partial" in path.name or path.name == "corpus"]


def build_noting(files: list[Path], out: Path, **options: Any) -> tuple[CorpusManifest, list[tuple[str, int, str]]]:
    noted: list[Malformed] = []
    manifest = build_corpus(files, out, 3, progress=BuildProgress(malformed=noted.append), **options)
    return manifest, [(found.path.name, found.line, found.reason) for found in noted]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_shards(tmp_path: Path, suffix: str, packed: str) -> None:
    reference = build_corpus([write(tmp_path / "reference", REVIEWS)], tmp_path / "a", 5)
    source = write(tmp_path / f"reviews{suffix}{packed}", REVIEWS)
    manifest = build_corpus([source], tmp_path / "b", 5, text_field=field_of(source))
    assert manifest.shards == reference.shards
    assert shard_bytes(tmp_path / "b") == shard_bytes(tmp_path / "a")
    assert sorted(all_reviews(tmp_path / "b")) == sorted(REVIEWS)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "manifest.json",
        *(entry.file for entry in manifest.shards),
    ]


def test_reviews_are_prepared_as_for_reading(tmp_path: Path) -> None:
    source = tmp_path / "raw.txt"
    source.write_bytes("\ufeff  salt &amp; vinegar\t\r\n\n   \none&#10;two\ncafé 😀".encode())
    manifest = build_corpus([source], tmp_path / "corpus", shards=3)
    found = sorted(shard_bytes(tmp_path / "corpus"))
    assert found == sorted(prepare_prompt(text) for text in ("salt & vinegar", "one two", "café 😀"))
    assert (manifest.reviews, manifest.empty, manifest.duplicates, manifest.malformed) == (3, 2, 0, 0)


RAW = st.lists(
    st.one_of(
        st.sampled_from(list(" \t\n\r\v\f\x1c\x1f\x85\xa0\u2003\u2028\u3000\u200b\ufeff&;#xlt\0\"\\,'")),
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(["&amp;", "&lt", "&#10;", "&#x20;", "&nbsp;", "&notit;", "&#0;", "&#xD800;"]),
    ),
    max_size=12,
).map("".join)


@given(texts=st.lists(RAW, max_size=12), threads=st.sampled_from([1, 3]), memory=st.sampled_from(["150MB", "2GB"]))
@example(texts=["a\u0301 ", " \u0301b", "\r\nx\r\n", "&", "\0", "a\nb"], threads=1, memory="150MB")
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_is_cleaned_as_the_service_does(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], threads: int, memory: str
) -> None:
    directory = tmp_path_factory.mktemp("any")
    texts = [*texts, "one", "two", "three"]
    wanted = {text for text in map(clean, texts) if text}
    shards = []
    for suffix in (".csv", ".jsonl", ".parquet"):
        source, out = write(directory / f"raw{suffix}", texts), directory / suffix.removeprefix(".")
        if suffix == ".csv":  # a lone carriage return ends a row for the csv module unless it is quoted
            with source.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in texts)])
        manifest = build_corpus([source], out, 3, text_field="text", threads=threads, memory_limit=memory)
        assert manifest.malformed == 0
        assert manifest.reviews + manifest.duplicates + manifest.empty == len(texts)
        shards.append(shard_bytes(out))
    assert shards[0] == shards[1] == shards[2]
    found = b"".join(shards[0]).decode().split("\n ")[1:]
    assert len(found) == len(wanted)
    assert set(found) == wanted
    shutil.rmtree(directory)


def test_every_different_review_once(tmp_path: Path) -> None:
    one = write(tmp_path / "one.txt", REVIEWS[:30] + REVIEWS[5:10])
    two = write(tmp_path / "two.gz", [f" {text} " for text in REVIEWS[20:]])
    manifest = build_corpus([two, one], tmp_path / "corpus", shards=5)
    assert sorted(all_reviews(tmp_path / "corpus")) == sorted(REVIEWS)
    assert manifest.reviews == 53
    assert manifest.duplicates == 5 + 10
    assert [(source.file, source.reviews) for source in manifest.sources] == [("one.txt", 35), ("two.gz", 33)]


@given(count=st.integers(3, 60), shards=st.integers(3, 20))
@settings(deadline=None, max_examples=15)
def test_shards_have_equal_review_counts(tmp_path_factory: pytest.TempPathFactory, count: int, shards: int) -> None:
    directory = tmp_path_factory.mktemp("equal")
    source = write(directory / "reviews.txt", [f"number {number}" for number in range(count)])
    if shards > count:
        with pytest.raises(CorpusError, match="lower --shards"):
            build_corpus([source], directory / "corpus", shards)
        return
    manifest = build_corpus([source], directory / "corpus", shards)
    counts = [entry.reviews for entry in manifest.shards]
    assert len(counts) == shards
    assert sum(counts) == count
    assert max(counts) - min(counts) <= 1
    assert counts == [len(reviews_of(shard)) for shard in shard_bytes(directory / "corpus")]


def test_the_manifest_describes_the_shards(tmp_path: Path) -> None:
    build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", shards=4, seed=9)
    record = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert record["seed"] == 9
    for entry, content in zip(record["shards"], shard_bytes(tmp_path / "corpus"), strict=True):
        assert entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_order_is_that_of_the_keyed_hash(tmp_path: Path) -> None:
    """Also a test of DuckDB: another reading of MD5 there would shuffle all corpora anew."""
    build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", 4, seed=7)

    def place(review: str) -> int:
        return int.from_bytes(hashlib.md5(f"7\n {review}".encode()).digest(), "little")  # noqa: S324

    assert all_reviews(tmp_path / "corpus") == sorted(REVIEWS, key=place)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    forward = write(tmp_path / "forward.txt", REVIEWS)
    backward = write(tmp_path / "backward.xz", REVIEWS[::-1])
    for name, source, seed in (("a", forward, 1), ("b", forward, 1), ("c", backward, 1), ("d", forward, 2)):
        build_corpus([source], tmp_path / name, shards=4, seed=seed)
    a, b, c, d = (shard_bytes(tmp_path / name) for name in "abcd")
    assert a == b == c  # nor does the order of the reviews matter
    assert a != d
    order_a, order_d = (all_reviews(tmp_path / name) for name in "ad")
    assert sorted(order_a) == sorted(order_d)
    assert order_a not in (REVIEWS, sorted(REVIEWS))


def test_threads_memory_and_the_order_of_sources_change_no_byte(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(0, 10**6, size=60))) + " &amp;" * (number % 2) for number in range(60_000)]
    one, two = write(tmp_path / "one.jsonl", texts[:35_000]), write(tmp_path / "two.csv.gz", texts[30_000:])
    found = []
    for number, (files, threads, memory) in enumerate(
        [([one, two], 1, "64MB"), ([two, one], 3, "200MB"), ([one, two, one], None, "1GB")]
    ):
        out = tmp_path / str(number)
        build_corpus(files, out, 7, text_field="text", threads=threads, memory_limit=memory)
        found.append([*shard_bytes(out), (out / "manifest.json").read_bytes()])
    assert found[0] == found[1] == found[2]
    assert Corpus(tmp_path / "0").manifest.duplicates == 5_000


@pytest.mark.parametrize("bucket_bytes", [100, 1000, 10**6])
def test_any_number_of_buckets_gives_the_same_shards(tmp_path: Path, bucket_bytes: int) -> None:
    reviews = [f"\n {text}" for text in REVIEWS * 2]
    places = [hashlib.sha256(text.encode()).digest() for text in reviews]
    buckets = Buckets(tmp_path / "buckets", 2000, bucket_bytes)
    for start in range(0, len(reviews), 30):
        halves = np.frombuffer(b"".join(places[start : start + 30]), np.uint64).reshape(-1, 4)
        buckets.add(pa.record_batch({"high": halves[:, 0], "low": halves[:, 1], "review": reviews[start : start + 30]}))
        buckets.flush()
    used = len(list((tmp_path / "buckets").glob("*.reviews")))
    assert used == {100: len({np.frombuffer(p, np.uint64)[0] >> 59 for p in places}), 1000: 2, 10**6: 1}[bucket_bytes]
    assert buckets.count(workers=2) == len(REVIEWS)
    assert buckets.bytes == sum(map(len, reviews))
    (tmp_path / "shards").mkdir()
    counts = shard_counts(len(REVIEWS), 5)
    Shards(tmp_path / "shards").write(buckets.sorted(workers=3), counts, lambda _: None)
    by_place = sorted(zip(places, reviews, strict=True), key=lambda pair: tuple(np.frombuffer(pair[0], np.uint64)[:2]))
    assert b"".join(shard_bytes(tmp_path / "shards")) == "".join(dict.fromkeys(text for _, text in by_place)).encode()
    assert not list((tmp_path / "buckets").iterdir())


@pytest.mark.parametrize("block_bytes", [1, 7, 64])
def test_lines_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(sources, "_BLOCK_BYTES", block_bytes)
    content = b"one\n\nthree is long, long, long\nbroken \xff\nfive"
    manifest, noted = build_noting([pack(tmp_path / "a.txt", content)], tmp_path / "corpus")
    assert sorted(all_reviews(tmp_path / "corpus")) == ["five", "one", "three is long, long, long"]
    assert (manifest.empty, [(line, reason[:9]) for _, line, reason in noted]) == (1, [(4, "not UTF-8")])


def test_a_file_without_newlines_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 100)
    source = pack(tmp_path / "a.txt", b"short\n" + b"x" * 2000)
    with pytest.raises(CorpusError, match=r"a\.txt, line 2: it is longer than 1,000 bytes"):
        build_corpus([source], tmp_path / "corpus", 3)


LINES = (
    b'{"text": "a"}\n{"text": "b"}\n\n{"text": 3}\n{"other": "c"}\n{"text": null}\n[1]\nnonsense\n{"text": "\xff"}\n'
)
ROWS = b'id,text\n1,a\n2,"b\nb"\n\n3\n4,c,d\n5,x\xff\n6,"d"e\n7,c\n'


@pytest.mark.parametrize("packed", PACKED)
def test_malformed_records_are_counted_and_named(tmp_path: Path, packed: str) -> None:
    files = [
        pack(tmp_path / f"lines.jsonl{packed}", LINES + b'{"text": "cut'),
        pack(tmp_path / f"rows.csv{packed}", ROWS + b'8,"never ends\n\n'),
        pack(tmp_path / f"text{packed}", b"fine\nfine too\nbad \xff byte\n"),
    ]
    manifest, noted = build_noting(files, tmp_path / "corpus", text_field="text")
    assert noted == [
        (files[0].name, 4, "field text is ubigint, not a string"),
        (files[0].name, 5, "no field text"),
        (files[0].name, 6, "field text is null, not a string"),
        (files[0].name, 7, "no field text"),
        (files[0].name, 8, "not JSON"),
        (files[0].name, 9, "not UTF-8 (invalid start byte at byte 10)"),
        (files[0].name, 10, "not JSON"),
        (files[1].name, 6, "it has 1 columns, the header has 2"),
        (files[1].name, 7, "it has 3 columns, the header has 2"),
        (files[1].name, 8, "not UTF-8"),
        (files[1].name, 9, "not CSV (',' expected after '\"')"),
        (files[1].name, 11, "not CSV (unexpected end of data)"),
        (files[2].name, 3, "not UTF-8 (invalid start byte at byte 4)"),
    ]
    assert sorted(all_reviews(tmp_path / "corpus")) == ["a", "b", "b b", "c", "fine", "fine too"]
    assert (manifest.reviews, manifest.duplicates, manifest.empty, manifest.malformed) == (6, 1, 2, 13)
    assert sorted((source.reviews, source.empty, source.malformed) for source in manifest.sources) == [
        (2, 0, 1),
        (2, 1, 7),
        (3, 1, 5),
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


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".csv.gz", ".parquet.xz"])
def test_a_wrong_text_field_names_those_that_there_are(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"a{suffix}", REVIEWS)
    with pytest.raises(CorpusError, match=r"has no text field 'reviewText' .* there are: id, text"):
        build_corpus([source], tmp_path / "corpus", 3, text_field="reviewText")
    with pytest.raises(CorpusError, match="--text-field; there are: id, text"):
        build_corpus([source], tmp_path / "corpus", 3)
    assert left_in(tmp_path) == []


def test_the_only_column_needs_no_name(tmp_path: Path) -> None:
    rows = pack(tmp_path / "a.csv", b"review\none\ntwo\n")
    pq.write_table(pa.table({"stars": [1, 2], "body": ["three", "four"]}), tmp_path / "b.parquet")
    build_corpus([rows, tmp_path / "b.parquet"], tmp_path / "corpus", 3)
    assert sorted(all_reviews(tmp_path / "corpus")) == ["four", "one", "three", "two"]
    with pytest.raises(CorpusError, match=r"has no text field 'stars' .* there are: body"):
        build_corpus([tmp_path / "b.parquet"], tmp_path / "other", 3, text_field="stars")
    with pytest.raises(CorpusError, match="text files have no fields"):
        build_corpus([write(tmp_path / "c.txt", REVIEWS)], tmp_path / "other", 3, text_field="body")


@pytest.mark.parametrize("field", ["a/b", "a~b", "a.b", "it's", "$", "日本", 'q"q'])
def test_any_name_of_a_field(tmp_path: Path, field: str) -> None:
    source = pack(
        tmp_path / "a.jsonl", "".join(json.dumps({"x": "no", field: text}) + "\n" for text in REVIEWS).encode()
    )
    build_corpus([source], tmp_path / "corpus", 3, text_field=field)
    assert sorted(all_reviews(tmp_path / "corpus")) == sorted(REVIEWS)


def test_globs_directories_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "raw" / "more").mkdir(parents=True)
    write(tmp_path / "raw" / "a.txt", REVIEWS[:20])
    write(tmp_path / "raw" / "b.txt.gz", REVIEWS[20:40])
    write(tmp_path / "raw" / "more" / "c.txt", REVIEWS[40:])
    names = [tmp_path / "raw" / "*", tmp_path / "raw" / "**" / "*.txt", tmp_path / "raw" / "a.txt"]
    manifest = build_corpus(names, tmp_path / "corpus", 3)
    assert sorted(all_reviews(tmp_path / "corpus")) == sorted(REVIEWS)
    assert [source.file for source in manifest.sources] == ["a.txt", "b.txt.gz", "c.txt"]
    assert manifest.duplicates == 0  # a file that two names stand for is read once
    with pytest.raises(CorpusError, match="raw is a directory"):
        build_corpus([tmp_path / "raw"], tmp_path / "other", 3)
    with pytest.raises(CorpusError, match="cannot be read: File name too long"):
        build_corpus([tmp_path / ("x" * 300)], tmp_path / "other", 3)
    with pytest.raises(CorpusError, match=r"nothing\*: no such file"):
        build_corpus([tmp_path / "nothing*"], tmp_path / "other", 3)


def test_the_last_two_shards_are_held_out(tmp_path: Path) -> None:
    build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", shards=6)
    corpus = Corpus(tmp_path / "corpus")
    assert [entry.file for entry in corpus.training] == [f"shard-0000{number}.bin" for number in range(4)]
    assert (corpus.validation.file, corpus.test.file) == ("shard-00004.bin", "shard-00005.bin")
    data = corpus.read(corpus.validation)
    assert data.dtype == np.uint8
    assert data.tobytes() == shard_bytes(tmp_path / "corpus")[4]
    trained_on = {review for entry in corpus.training for review in reviews_of(corpus.read(entry).tobytes())}
    held_out = {
        review for entry in (corpus.validation, corpus.test) for review in reviews_of(corpus.read(entry).tobytes())
    }
    assert not trained_on & held_out


@pytest.mark.parametrize("kind", ["cut", "wrong"])
@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst", ".jsonl.gz", ".parquet"])
def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, kind: str, suffix: str) -> None:
    source = tmp_path / f"broken{suffix}"
    if kind == "cut":
        content = write(source, [hashlib.sha256(text.encode()).hexdigest() for text in REVIEWS * 9]).read_bytes()
        source.write_bytes(content[:-20])
    else:
        source.write_bytes(b"plain text\n" * 9)
    with pytest.raises(CorpusError, match=rf"broken{suffix} cannot be read"):
        build_corpus([source], tmp_path / "corpus", 3, text_field=None if suffix in PACKED else "text")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("shards", [-1, 0, 1, 2, 54])
def test_too_few_or_too_many_shards(tmp_path: Path, shards: int) -> None:
    with pytest.raises(CorpusError, match="shards"):
        build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", shards)
    assert left_in(tmp_path) == []


def test_nothing_is_written_where_something_is(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", REVIEWS)
    out = tmp_path / "out"
    out.mkdir()
    build_corpus([source], out, shards=3)  # an empty directory is fine
    before = shard_bytes(out)
    for place in (out, source):
        with pytest.raises(CorpusError, match="not empty"):
            build_corpus([source], place, shards=3, seed=1)
    assert shard_bytes(out) == before


_LIMITED = """
import resource, sys
from pathlib import Path
from trainer.corpus.build import build_corpus
from trainer.corpus.corpus import CorpusError
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    build_corpus([Path(sys.argv[1])], Path(sys.argv[2]), 3)
except CorpusError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", [f"{number} {'long ' * 500}" for number in range(2000)])
    command = [sys.executable, "-c", _LIMITED, str(source), str(tmp_path / "corpus")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "corpus cannot be written, nothing is left of it: [Errno 27] File too large" in done.stdout
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_limit": "much"}, "'much' is not a size"),
        ({"memory_limit": "1MB"}, r"1,000,000 bytes is too low for 1 threads: raise --memory-limit to 48,000,000"),
        ({"memory_limit": "100MB", "threads": 3}, "too low for 3 threads: raise --memory-limit to 144,000,000"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_limits_that_make_no_sense(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", 3, **options)
    assert left_in(tmp_path) == []


def test_sizes() -> None:
    assert [parse_size(text) for text in ("1GB", "512 MiB", "2.5g", "100", "1b")] == [10**9, 2**29, 25 * 10**8, 100, 1]


def test_an_unfinished_corpus_is_refused(tmp_path: Path) -> None:
    build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", shards=3)
    (tmp_path / "corpus" / "manifest.json").unlink()
    with pytest.raises(CorpusError, match="no corpus"):
        Corpus(tmp_path / "corpus")


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "{",
        lambda _: b"\xff\xfe",
        lambda _: json.dumps([]),
        lambda record: json.dumps({name: value for name, value in record.items() if name != "shards"}),
        lambda record: json.dumps(record | {"shards": record["shards"][:2]}),
        lambda record: json.dumps(record | {"shards": [{"file": 1}] * 3}),
        lambda record: json.dumps(record | {"reviews": "many"}),
        lambda record: json.dumps(record | {"sources": ["a.txt"]}),
        lambda record: json.dumps(record)[:-1] + ', "seed": 1}',
        lambda _: "[" * 10**6,
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, damage: Any) -> None:
    build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", shards=3)
    path = tmp_path / "corpus" / "manifest.json"
    damaged = damage(json.loads(path.read_text()))
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    with pytest.raises(CorpusError, match=r"manifest\.json is damaged: "):
        Corpus(tmp_path / "corpus")


@pytest.mark.parametrize("damage", ["cut", "longer", "missing"])
def test_a_shard_of_another_size_is_refused(tmp_path: Path, damage: str) -> None:
    build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", shards=3)
    corpus = Corpus(tmp_path / "corpus")
    path = tmp_path / "corpus" / corpus.training[0].file
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-1] if damage == "cut" else content + b"x")
    with pytest.raises(CorpusError, match=r"shard-00000.bin (holds|cannot be read)"):
        corpus.read(corpus.training[0])


HOSTILE: list[tuple[str, object]] = [
    *[
        ("file", name)
        for name in ("../../etc/passwd", "/etc/passwd", "shard-00000.bin/../x", "", ".", "a\0b", "x" * 300)
    ],
    *[("file", name) for name in ("shard-00000.bin\n", "shard-0000\u0661.bin", "manifest.json", None, 5, [])],
    *[("bytes", value) for value in (0, -1, 10**12, 10**400, True, "330", 330.0, None, float("nan"))],
    *[("reviews", value) for value in (-1, 10**400, "1", 1.0, None)],
    *[("sha256", value) for value in ("", "0" * 63, "G" * 64, "0" * 65, None, 0)],
]


@pytest.mark.parametrize(("field", "value"), HOSTILE, ids=[f"{field}={value!r}"[:40] for field, value in HOSTILE])
def test_hostile_entries_are_refused(tmp_path: Path, field: str, value: object) -> None:
    """Here, or when that shard is asked for: nothing outside of the corpus is read."""
    corpus = write_corpus(tmp_path / "corpus", shards=3)
    record = json.loads((corpus / "manifest.json").read_text())
    record["shards"][0][field] = value
    (corpus / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(CorpusError):
        Corpus(corpus).verify()


@pytest.mark.parametrize("relative", [True, False])
def test_a_shard_outside_of_the_corpus_is_not_read(tmp_path: Path, relative: bool) -> None:
    """Even if its size and hash are as the manifest says."""
    corpus = write_corpus(tmp_path / "corpus", shards=3)
    outside = (corpus / "shard-00000.bin").rename(tmp_path / "shard-00000.bin")
    record = json.loads((corpus / "manifest.json").read_text())
    record["shards"][0]["file"] = "../shard-00000.bin" if relative else str(outside)
    (corpus / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(CorpusError, match=r"shards\.0\.file"):
        Corpus(corpus)


@pytest.mark.parametrize("file", ["manifest.json", "shard-00001.bin"])
@pytest.mark.parametrize("kind", ["link", "endless", "pipe", "folder", "sparse"])
def test_what_is_no_plain_file_of_its_size_is_refused(tmp_path: Path, file: str, kind: str) -> None:
    path = write_corpus(tmp_path / "corpus", shards=3) / file
    if kind == "sparse":
        os.truncate(path, 2**42)
    else:
        path.rename(tmp_path / "elsewhere")
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case _:
                path.symlink_to(tmp_path / "elsewhere" if kind == "link" else "/dev/zero")
    with pytest.raises(CorpusError, match=path.name):
        Corpus(tmp_path / "corpus").verify()


def test_a_shard_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", shards=3)
    record = json.loads((corpus / "manifest.json").read_text())
    record["shards"][1] = record["shards"][0]
    (corpus / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(CorpusError, match="lists a shard twice"):
        Corpus(corpus)


def test_verify_finds_a_changed_byte(tmp_path: Path) -> None:
    build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", shards=3)
    corpus = Corpus(tmp_path / "corpus")
    hashed: list[int] = []
    corpus.verify(hashed.append)
    assert sum(hashed) == sum(map(len, shard_bytes(tmp_path / "corpus")))
    path = tmp_path / "corpus" / corpus.test.file
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    with pytest.raises(CorpusError, match=r"shard-00002\.bin is damaged"):
        corpus.verify()


def test_reading_a_corpus_needs_neither_duckdb_nor_pyarrow(tmp_path: Path) -> None:
    build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", shards=3)
    program = (
        "import sys; sys.modules |= dict.fromkeys(['duckdb', 'pyarrow']); from pathlib import Path;"
        "from trainer.corpus.corpus import Corpus; corpus = Corpus(Path(sys.argv[1])); corpus.verify()"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "corpus")], check=True)


def test_progress_covers_every_byte(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{number}{suffix}", REVIEWS) for number, suffix in enumerate((*FORMATS, ".jsonl.gz"))]
    stages: list[list[Any]] = []

    def advance(size: int) -> None:
        stages[-1][2] += size

    progress = BuildProgress(lambda name, size: stages.append([name, size, 0]), advance)
    manifest = build_corpus(files, tmp_path / "corpus", 3, text_field="text", progress=progress)
    read = sum(path.stat().st_size for path in files)
    assert stages[0] == ["reading", read, read]
    assert stages[1][0] == "writing"
    assert stages[1][2] == sum(entry.bytes for entry in manifest.shards) <= stages[1][1]
