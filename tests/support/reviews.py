"""Files of reviews in every format, and what a corpus that was built of them holds."""

import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from texts.faults import Fault
from trainer.corpus.build import BuildProgress, build_corpus
from trainer.corpus.corpus import CorpusManifest

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


def build_noting(files: list[Path], out: Path, **options: Any) -> tuple[CorpusManifest, list[tuple[str, int, str]]]:
    noted: list[Fault] = []
    manifest = build_corpus(files, out, 3, progress=BuildProgress(malformed=noted.append), **options)
    return manifest, [(Path(found.file).name, int(found.place.split()[1]), found.reason) for found in noted]


def left_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if "partial" in path.name or path.name == "corpus"]
