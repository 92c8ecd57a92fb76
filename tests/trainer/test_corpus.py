"""A corpus reads back as it was built, or is refused by name; its last two shards are held out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.reviews import REVIEWS, reviews_of, shard_bytes, write
from tests.support.runs import write_corpus
from trainer.corpus.build import build_corpus
from trainer.corpus.corpus import Corpus, CorpusError


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


def test_an_unfinished_corpus_is_refused(tmp_path: Path) -> None:
    build_corpus([write(tmp_path / "a.txt", REVIEWS)], tmp_path / "corpus", shards=3)
    (tmp_path / "corpus" / "manifest.json").unlink()
    with pytest.raises(CorpusError, match="not a corpus"):
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
