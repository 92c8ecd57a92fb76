"""From files of reviews to a corpus: reading, cleaning and hashing, de-duplication, shuffle, shards, manifest."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from model.durable import new_directory
from trainer.cleaning import cleaned, connect, parse_size, thread_count
from trainer.corpus import FEWEST_SHARDS, MANIFEST, CorpusError, CorpusManifest, SourceEntry
from trainer.packed import PACKED
from trainer.shuffle import Buckets, write_shards
from trainer.sources import Source, find_files, open_source

# So many malformed records are told one by one.
REPORTED = 20
# More than what reviews shrink by: too many buckets cost little, too large ones memory.
_PACKED_RATIO = 8
# Of the memory limit: while the buckets are sorted some six of them are in memory, each twice.
_BUCKET_SHARE = 16
_MAX_WORKERS = 4


@dataclass(frozen=True)
class Malformed:
    """A record that is left out. line: from 1; for Parquet the row."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.reason}"


@dataclass(frozen=True)
class Watch:
    """Who is told while a corpus is built.

    stage: what begins now and of how many bytes; advance: how many bytes of it have been done since the last call;
    malformed: the first malformed records, twenty at most.
    """

    stage: Callable[[str, int], None] = lambda _name, _bytes: None
    advance: Callable[[int], None] = lambda _: None
    malformed: Callable[[Malformed], None] = lambda _: None


def build(
    names: list[Path],
    out: Path,
    shards: int,
    seed: int,
    text_field: str | None,
    memory_limit: str,
    threads: int | None,
    strict: bool,
    watch: Watch,
) -> CorpusManifest:
    """As trainer.corpus.build_corpus."""
    if shards < FEWEST_SHARDS:
        raise CorpusError(
            f"shards is {shards}: at least {FEWEST_SHARDS} are needed (one to train on, one to validate, one to test)"
        )
    memory_bytes = parse_size(memory_limit)
    files = find_files(names)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CorpusError(f"{out} is not empty: name a new directory")
    try:
        if out.exists():
            out.rmdir()
        with new_directory(out) as directory:
            spill = directory / "spill"
            spill.mkdir()
            sources = [open_source(path, text_field, spill) for path in files]
            if text_field is not None and all(source.field is None for source in sources):
                raise CorpusError(f"--text-field {text_field}: text files have no fields")
            with connect(memory_bytes, threads, spill) as connection:
                workers = min(_MAX_WORKERS, thread_count(connection))
                buckets = Buckets(spill / "buckets", _expected_bytes(sources), memory_bytes // _BUCKET_SHARE)
                entries = _read(connection, sources, seed, spill, buckets, strict, watch)
            reviews = buckets.count(workers)
            if reviews < shards:
                raise CorpusError(f"{reviews} different reviews do not fill {shards} shards: lower --shards")
            watch.stage("writing", buckets.bytes)
            manifest = CorpusManifest(
                seed=seed,
                reviews=reviews,
                duplicates=buckets.reviews - reviews,
                empty=sum(entry.empty for entry in entries),
                malformed=sum(entry.malformed for entry in entries),
                shards=write_shards(buckets.sorted(workers), reviews, directory, shards, watch.advance),
                # The order in which files are named, or where they lie, changes nothing.
                sources=sorted(entries, key=lambda entry: (entry.file, entry.bytes, entry.reviews, entry.malformed)),
            )
            shutil.rmtree(spill)
            (directory / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1))
    except OSError as error:
        # What reading raises names its file; this is the disk's.
        raise CorpusError(f"{out} cannot be written, nothing is left of it: {error}") from error
    return manifest


def _read(
    connection: duckdb.DuckDBPyConnection,
    sources: list[Source],
    seed: int,
    spill: Path,
    buckets: Buckets,
    strict: bool,
    watch: Watch,
) -> list[SourceEntry]:
    """Fill the buckets; what every file gave."""
    sizes = [source.path.stat().st_size for source in sources]
    watch.stage("reading", sum(sizes))
    entries = []
    reported = 0
    for source, size in zip(sources, sizes, strict=True):
        entry = SourceEntry(source.path.name, size, 0, 0, 0)
        for batch in cleaned(connection, source, seed, spill, watch.advance):
            for found in _malformed(source, batch, 1 if strict else REPORTED - reported):
                if strict:
                    raise CorpusError(f"{found} (--strict)")
                watch.malformed(found)
                reported += 1
            reviews = batch.filter(pc.greater(pc.binary_length(batch["review"]), len("\n ")))
            malformed = len(batch) - batch["fault"].null_count
            entry = replace(
                entry,
                reviews=entry.reviews + len(reviews),
                empty=entry.empty + len(batch) - malformed - len(reviews),
                malformed=entry.malformed + malformed,
            )
            buckets.add(reviews.select(["high", "low", "review"]))
        entries.append(entry)
    buckets.flush()
    return entries


def _expected_bytes(sources: list[Source]) -> int:
    return sum(
        source.path.stat().st_size * (_PACKED_RATIO if source.path.suffix.lower() in (*PACKED, ".parquet") else 1)
        for source in sources
    )


def _malformed(source: Source, batch: pa.RecordBatch, most: int) -> list[Malformed]:
    if batch["fault"].null_count == len(batch) or most <= 0:
        return []
    found = batch.filter(pc.is_valid(batch["fault"])).slice(0, most)
    return [Malformed(source.path, row["line"], row["fault"]) for row in found.select(["line", "fault"]).to_pylist()]
