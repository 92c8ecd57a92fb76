"""A corpus holds every different review once, in equal shards, the same bytes for the same seed, or is refused."""

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.text import prepare_prompt
from tests.conftest import write_packed
from trainer.corpus import Corpus, CorpusError, build_corpus, read_reviews

REVIEWS = [f"review number {number}, {'good' if number % 3 else 'bad'}" for number in range(53)]


def write(path: Path, lines: list[str]) -> Path:
    return write_packed(path, "".join(line + "\n" for line in lines).encode())


def shard_bytes(corpus: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(corpus.glob("shard-*.bin"))]


def reviews_of(shard: bytes) -> list[str]:
    assert shard.startswith(b"\n ")
    return [review.removeprefix(" ") for review in shard.decode().split("\n")[1:]]


@pytest.mark.parametrize("suffix", [".txt", ".gz", ".xz", ""])
def test_plain_and_packed_sources_read_alike(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"reviews{suffix}", REVIEWS)
    assert list(read_reviews(source)) == REVIEWS


def test_reviews_are_prepared_as_for_reading(tmp_path: Path) -> None:
    source = tmp_path / "raw.txt"
    source.write_bytes("  salt &amp; vinegar\t\r\n\n   \none&#10;two\ncafé 😀".encode())
    assert list(read_reviews(source)) == ["salt & vinegar", "one two", "café 😀"]
    build_corpus([source], tmp_path / "corpus", shards=3)
    found = sorted(shard_bytes(tmp_path / "corpus"))
    assert found == sorted(prepare_prompt(text) for text in ("salt & vinegar", "one two", "café 😀"))


def test_every_different_review_once(tmp_path: Path) -> None:
    one = write(tmp_path / "one.txt", REVIEWS[:30] + REVIEWS[5:10])
    two = write(tmp_path / "two.gz", [f" {text} " for text in REVIEWS[20:]])
    manifest = build_corpus([one, two], tmp_path / "corpus", shards=5)
    found = [review for shard in shard_bytes(tmp_path / "corpus") for review in reviews_of(shard)]
    assert sorted(found) == sorted(REVIEWS)
    assert manifest.reviews == 53
    assert manifest.duplicates == 5 + 10
    assert manifest.sources == ["one.txt", "two.gz"]


@given(count=st.integers(3, 60), shards=st.integers(3, 20))
@settings(deadline=None, max_examples=25)
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


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    forward = write(tmp_path / "forward.txt", REVIEWS)
    backward = write(tmp_path / "backward.xz", REVIEWS[::-1])
    for name, source, seed in (("a", forward, 1), ("b", forward, 1), ("c", backward, 1), ("d", forward, 2)):
        build_corpus([source], tmp_path / name, shards=4, seed=seed)
    a, b, c, d = (shard_bytes(tmp_path / name) for name in "abcd")
    assert a == b == c  # nor does the order of the reviews matter
    assert a != d
    order_a, order_d = ([review for shard in shards for review in reviews_of(shard)] for shards in (a, d))
    assert sorted(order_a) == sorted(order_d)
    assert order_a not in (REVIEWS, sorted(REVIEWS))


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


@pytest.mark.parametrize("suffix", [".txt", ".gz"])
def test_a_line_that_is_not_utf8_is_named(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"broken{suffix}"
    content = b"fine\nfine too\nbad \xff byte\n"
    source.write_bytes(gzip.compress(content) if suffix == ".gz" else content)
    with pytest.raises(CorpusError, match=rf"broken{suffix}, line 3: not UTF-8 .* byte 4"):
        build_corpus([source], tmp_path / "corpus", shards=3)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("name", ["missing.txt", "cut.gz", "cut.xz", "wrong.gz", "wrong.xz"])
def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    if name.startswith("cut"):
        source.write_bytes(write(source, REVIEWS).read_bytes()[:-20])
    elif name.startswith("wrong"):
        source.write_bytes(b"plain text\n" * 9)
    with pytest.raises(CorpusError, match=name):
        build_corpus([source], tmp_path / "corpus", shards=3)


@pytest.mark.parametrize("shards", [-1, 0, 1, 2, 54])
def test_too_few_or_too_many_shards(tmp_path: Path, shards: int) -> None:
    with pytest.raises(CorpusError, match="shards"):
        build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", shards)
    assert not (tmp_path / "corpus").exists()


def test_nothing_is_written_where_something_is(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", REVIEWS)
    out = tmp_path / "out"
    out.mkdir()
    build_corpus([source], out, shards=3)  # an empty directory is fine
    before = shard_bytes(out)
    with pytest.raises(CorpusError, match="not empty"):
        build_corpus([source], out, shards=3, seed=1)
    assert shard_bytes(out) == before


def test_an_unfinished_corpus_is_refused(tmp_path: Path) -> None:
    build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", shards=3)
    assert not list((tmp_path / "corpus").glob("*.partial"))
    (tmp_path / "corpus" / "manifest.json").unlink()
    with pytest.raises(CorpusError, match="no corpus"):
        Corpus(tmp_path / "corpus")


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="killed here"):
            build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", shards=3)
    assert len(shard_bytes(tmp_path / "corpus")) == 3
    with pytest.raises(CorpusError, match="no corpus"):
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
    with pytest.raises(CorpusError, match=r"shard-00000.bin holds"):
        corpus.read(corpus.training[0])
