"""`build_corpus`: from files of reviews to a corpus, by cleaning, hashing, de-duplication, shuffle and shards."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.checkpoints.durable import exclusively, make, new_directory, sweep
from texts.dialect import AS_IT_IS, Dialect
from texts.faults import Fault, Faults, TextsError
from texts.formats import packing_named, place
from trainer.corpus.cleaning import cleaned, connect, parse_size, thread_count
from trainer.corpus.codes import Codes
from trainer.corpus.corpus import FEWEST_SHARDS, MANIFEST, CorpusError, CorpusManifest, SourceEntry
from trainer.corpus.labels import MAX_SOURCES, Labelling, Labels, LabelsError, check_classes
from trainer.corpus.shuffle import Buckets, Marks, Shards, shard_counts
from trainer.corpus.sources import Source, find_files, open_source

# Reviews shrink by less when packed: too many buckets cost little, too large ones cost memory.
_PACKED_RATIO = 8
# A bucket takes this part of the memory limit: some six buckets are in memory while they are sorted, each twice.
_BUCKETS_IN_MEMORY = 16
_MAX_WORKERS = 4


@dataclass(frozen=True)
class BuildProgress:
    """What a builder reports while it works.

    stage: the name and the bytes of the stage that begins; advance: bytes of the stage done since the last call;
    malformed: each of the first `REPORTED` malformed records.
    """

    stage: Callable[[str, int], None] = lambda _name, _bytes: None
    advance: Callable[[int], None] = lambda _bytes: None
    malformed: Callable[[Fault], None] = lambda _record: None


def build_corpus(
    sources: Iterable[Path],
    out: Path,
    shards: int,
    seed: int = 0,
    *,
    text_field: str | None = None,
    dialect: Dialect = AS_IT_IS,
    labelling: Labelling | None = None,
    held_out: int | None = None,
    memory_limit: str = "1GB",
    threads: int | None = None,
    strict: bool = False,
    progress: BuildProgress = BuildProgress(),
) -> CorpusManifest:
    """De-duplicate the reviews, shuffle them by a hash and write `shards` shards of equal review count into `out`.

    sources: files or globs, in any format of `texts`. out: a new or an empty directory; it appears whole or not at
    all. text_field: the column or key of the text. dialect: how all files are to be read. labelling: where labels are
    and what they mean; without it the corpus has none. held_out: reviews of each of the two shards that are held out;
    None for as many as the others have. memory_limit: what DuckDB, and then the sorting, may use. threads: None for as
    many as there are cores and memory for. strict: stop at the first malformed record, which is otherwise counted and
    left out. Raises CorpusError.

    The same reviews and seed give the same bytes, whatever the other arguments, the order and the format of the
    sources, with labels or without.
    """
    if shards < FEWEST_SHARDS:
        raise CorpusError(
            f"shards is {shards}: at least {FEWEST_SHARDS} are needed (one to train on, one to validate, one to test)"
        )
    memory_bytes = parse_size(memory_limit)
    files = find_files(list(sources))
    if labelling is not None:
        _check_labelling(labelling, files)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CorpusError(f"{out} is not empty: name a new directory")
    try:
        if out.exists():
            out.rmdir()
        with _alone(out) as directory:
            spill = directory / "spill"
            spill.mkdir()
            asked = labelling or Labelling()
            opened = [
                open_source(path, text_field, spill, asked.label_field, asked.directory, dialect) for path in files
            ]
            if text_field is not None and all(source.format == "text" for source in opened):
                raise CorpusError(f"--text-field {text_field}: text files have no fields")
            with connect(memory_bytes, threads, spill) as connection:
                workers = min(_MAX_WORKERS, thread_count(connection))
                bucket_bytes = memory_bytes // _BUCKETS_IN_MEMORY
                buckets = Buckets(spill / "buckets", _expected_bytes(opened), bucket_bytes, labelling is not None)
                codes = None if labelling is None else Codes()
                faults = Faults(progress.malformed, strict)
                entries = _read(connection, opened, seed, spill, buckets, codes, faults, progress)
            values = [] if codes is None else sorted(codes.values)
            if codes is not None and buckets.reviews:
                classes = _classes(asked, values)
            reviews = buckets.count(workers)
            counts = shard_counts(reviews, shards, held_out)
            if reviews == 0:
                first = "" if faults.first is None else f" ({faults.first})"
                raise CorpusError(
                    f"no review is left: {faults.count:,} records are malformed{first}, the others are empty"
                )
            if min(counts) < 1:
                held = "" if held_out is None else f" beside twice {held_out} held out"
                raise CorpusError(f"{reviews} different reviews do not fill {shards} shards{held}: lower --shards")
            # The order in which files are named, or where they lie, changes nothing.
            order = sorted(range(len(entries)), key=lambda index: _source_key(entries[index]))
            marks = None if codes is None else Marks(np.argsort(order), codes.ranks())
            progress.stage("writing", buckets.bytes)
            written = Shards(directory, marks)
            manifest = CorpusManifest(
                seed=seed,
                reviews=reviews,
                duplicates=buckets.reviews - reviews,
                empty=sum(entry.empty for entry in entries),
                malformed=sum(entry.malformed for entry in entries),
                shards=written.write(buckets.sorted(workers), counts, progress.advance),
                sources=[entries[index] for index in order],
            )
            if codes is not None and marks is not None:
                found = Labels(values, classes, marks.counts.tolist(), written.disagreeing)
                manifest = replace(manifest, labels=found)
            shutil.rmtree(spill)
            (directory / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1))
    except OSError as error:
        # Reading raises CorpusError, which names its file: this error is one of writing.
        raise CorpusError(f"{out} cannot be written, nothing is left of it: {error}") from error
    except LabelsError as error:
        raise CorpusError(str(error)) from error
    return manifest


@contextmanager
def _alone(out: Path) -> Iterator[Path]:
    """The directory that becomes `out`, which no other process builds meanwhile. What a killed one left is deleted."""
    make(out.parent)
    lock = out.parent / f".{out.name}.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusively(lock, 0))
        except TimeoutError as error:
            raise CorpusError(f"another process builds {out}: wait for it, or name another directory") from error
        stack.callback(lock.unlink, missing_ok=True)  # nothing but the corpus stays
        sweep(out.parent, out.name)
        yield stack.enter_context(new_directory(out))


def _check_labelling(labelling: Labelling, files: list[Path]) -> None:
    directory = labelling.directory
    if directory is not None and not any((directory / path.name).exists() for path in files):
        raise CorpusError(f"{directory} holds no file named as one of the sources, such as {files[0].name} (--labels)")
    if len(files) > MAX_SOURCES:
        raise CorpusError(f"there are {len(files)} sources, a corpus with labels takes {MAX_SOURCES} at most")


def _classes(asked: Labelling, values: list[str]) -> dict[str, list[str]]:
    """The classes of a corpus; where none are asked for, one of each value. Raises LabelsError if they cannot be.

    values: of all labels that were read.
    """
    if len(values) < 2:
        found = f"every label is {values[0]!r}" if values else "no review has a label"
        where = "--labels" if asked.label_field is None else f"--label-field {asked.label_field}"
        raise LabelsError(f"{found}, there must be two different ones at least ({where})")
    classes = {name: list(named) for name, named in asked.classes.items()} or {value: [value] for value in values}
    check_classes(classes, values)
    return classes


def _source_key(entry: SourceEntry) -> tuple[str, int, int, int]:
    return entry.file, entry.bytes, entry.reviews, entry.malformed


def _read(
    connection: duckdb.DuckDBPyConnection,
    sources: list[Source],
    seed: int,
    spill: Path,
    buckets: Buckets,
    codes: Codes | None,
    faults: Faults,
    progress: BuildProgress,
) -> list[SourceEntry]:
    """Fill the buckets and count what every file gave. codes: of the labels, None for a corpus without labels."""
    sizes = [source.path.stat().st_size for source in sources]
    progress.stage("reading", sum(sizes))
    entries = []
    for index, (source, size) in enumerate(zip(sources, sizes, strict=True)):
        entry = SourceEntry(source.path.name, size, 0, 0, 0)
        for batch in cleaned(connection, source, seed, spill, progress.advance):
            _report(source, batch, faults)
            reviews = batch.filter(pc.greater(pc.binary_length(batch["review"]), len("\n ")))
            malformed = len(batch) - batch["fault"].null_count
            entry = replace(
                entry,
                reviews=entry.reviews + len(reviews),
                empty=entry.empty + len(batch) - malformed - len(reviews),
                malformed=entry.malformed + malformed,
            )
            chosen = reviews.select(["high", "low", "review"])
            if codes is not None:
                try:
                    mark = np.uint64(index << 8) | codes.of(reviews["label"]).astype(np.uint64)
                except LabelsError as error:
                    raise CorpusError(f"{source.path}: {error}") from error
                chosen = chosen.append_column("mark", pa.array(mark))
            buckets.add(chosen)
        entries.append(entry)
    buckets.flush()
    return entries


def _expected_bytes(sources: list[Source]) -> int:
    return sum(
        source.path.stat().st_size
        * (_PACKED_RATIO if source.format == "parquet" or packing_named(source.path.name) else 1)
        for source in sources
    )


def _report(source: Source, batch: pa.RecordBatch, faults: Faults) -> None:
    """Raises CorpusError where the first is an error."""
    if batch["fault"].null_count == len(batch):
        return
    for row in batch.filter(pc.is_valid(batch["fault"])).select(["line", "fault"]).to_pylist():
        try:
            faults.add(Fault(str(source.path), place(source.format, row["line"]), row["fault"]))
        except TextsError as error:
            raise CorpusError(str(error)) from error
