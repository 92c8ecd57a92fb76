"""Names, globs and fields lead to sources, or the error says which ones there are."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from tests.support.reviews import REVIEWS, all_reviews, left_in, pack, write
from trainer.corpus.build import build_corpus
from trainer.corpus.corpus import CorpusError


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".csv.gz", ".parquet.xz"])
def test_a_wrong_text_field_names_those_that_there_are(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"a{suffix}", REVIEWS)
    with pytest.raises(CorpusError, match=r"a\..*'reviewText'.* there are: id, text"):
        build_corpus([source], tmp_path / "corpus", 3, text_field="reviewText")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_of_several_fields_one_is_to_be_named(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"title": ["a", "b", "c"], "body": ["one", "two", "three"]})
    source = tmp_path / f"a{suffix}"
    match suffix:
        case ".csv":
            pacsv.write_csv(table, source)
        case ".jsonl":
            source.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        case _:
            pq.write_table(table, source)
    with pytest.raises(CorpusError, match="with --text-field; there are: title, body"):
        build_corpus([source], tmp_path / "corpus", 3)
    build_corpus([source], tmp_path / "corpus", 3, text_field="body")
    assert sorted(all_reviews(tmp_path / "corpus")) == ["one", "three", "two"]


def test_the_only_column_needs_no_name(tmp_path: Path) -> None:
    rows = pack(tmp_path / "a.csv", b"review\none\ntwo\n")
    pq.write_table(pa.table({"stars": [1, 2], "body": ["three", "four"]}), tmp_path / "b.parquet")
    build_corpus([rows, tmp_path / "b.parquet"], tmp_path / "corpus", 3)
    assert sorted(all_reviews(tmp_path / "corpus")) == ["four", "one", "three", "two"]
    with pytest.raises(CorpusError, match=r"the text field 'stars' holds no text .* there are: body"):
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


@pytest.mark.parametrize("kind", ["cut", "wrong"])
@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.xz", ".txt.zst", ".jsonl.gz", ".parquet"])
def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, kind: str, suffix: str) -> None:
    source = tmp_path / f"broken{suffix}"
    if kind == "cut":
        content = write(source, [hashlib.sha256(text.encode()).hexdigest() for text in REVIEWS * 9]).read_bytes()
        source.write_bytes(content[:-20])
    else:
        source.write_bytes(b"plain text\n" * 9)
    with pytest.raises(CorpusError, match=rf"broken{suffix} cannot be read"):
        build_corpus([source], tmp_path / "corpus", 3, text_field=None if ".txt" in suffix else "text")
    assert left_in(tmp_path) == []
