"""A corpus holds every different review once, in equal shards, the same bytes for the same reviews and seed."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.reviews import (
    FORMATS,
    PACKED,
    REVIEWS,
    all_reviews,
    field_of,
    left_in,
    reviews_of,
    shard_bytes,
    write,
)
from texts.preparation import clean, prepare_prompt
from trainer.corpus.build import BuildProgress, build_corpus
from trainer.corpus.cleaning import parse_size
from trainer.corpus.corpus import Corpus, CorpusError
from trainer.corpus.shuffle import Buckets, Shards, shard_counts


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_shards(tmp_path: Path, suffix: str, packed: str) -> None:
    reference = build_corpus([write(tmp_path / "reference.txt", REVIEWS)], tmp_path / "a", 5)
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


@pytest.mark.slow
@given(texts=st.lists(RAW, max_size=12), threads=st.sampled_from([1, 3]), memory=st.sampled_from(["150MB", "2GB"]))
@example(texts=["a\u0301 ", " \u0301b", "\r\nx\r\n", "&", "\0", "a\nb"], threads=1, memory="150MB")
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
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
    two = write(tmp_path / "two.txt.gz", [f" {text} " for text in REVIEWS[20:]])
    manifest = build_corpus([two, one], tmp_path / "corpus", shards=5)
    assert sorted(all_reviews(tmp_path / "corpus")) == sorted(REVIEWS)
    assert manifest.reviews == 53
    assert manifest.duplicates == 5 + 10
    assert [(source.file, source.reviews) for source in manifest.sources] == [("one.txt", 35), ("two.txt.gz", 33)]


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
    backward = write(tmp_path / "backward.txt.xz", REVIEWS[::-1])
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
    texts = [" ".join(map(str, rng.integers(0, 10**6, size=60))) + " &amp;" * (number % 2) for number in range(20_000)]
    one, two = write(tmp_path / "one.jsonl", texts[:12_000]), write(tmp_path / "two.csv.gz", texts[10_000:])
    found = []
    for number, (files, threads, memory) in enumerate(
        [([one, two], 1, "64MB"), ([two, one], 3, "200MB"), ([one, two, one], None, "1GB")]
    ):
        out = tmp_path / str(number)
        build_corpus(files, out, 7, text_field="text", threads=threads, memory_limit=memory)
        found.append([*shard_bytes(out), (out / "manifest.json").read_bytes()])
    assert found[0] == found[1] == found[2]
    assert Corpus(tmp_path / "0").manifest.duplicates == 2_000


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
