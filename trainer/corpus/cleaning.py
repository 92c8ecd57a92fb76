"""Raw records to cleaned, hashed reviews, by DuckDB on all cores: `connect` and `cleaned`.

A review comes out as the shards hold it, `"\\n " + clean(raw)`, with its place in the shuffle: the MD5 of the
seed's digits and the review, as two 64-bit numbers. The result is that of `clean` (texts/preparation.py) to the
byte: a record with a character reference, or whose first or last character is not visible ASCII, goes through `clean`
itself; in all others `clean` could only replace newlines, which SQL does.
"""

import contextlib
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import cast

import duckdb
import pyarrow as pa
from duckdb.func import PythonUDFType

from texts.preparation import clean
from trainer.corpus.corpus import CorpusError
from trainer.corpus.records import SCHEMA, batches
from trainer.corpus.sources import Source

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
# With reviews of 450 bytes DuckDB needs 16 MB a thread and 32 MB for all; longer ones need more.
_MEMORY_OF_A_THREAD_BYTES = 48 * 10**6
_ROWS_PER_BATCH = 20_000

_CLEANED = """
WITH cleaned AS (
    SELECT line, fault, label, chr(10) || ' ' || CASE
        WHEN contains(text, '&') OR text[1] NOT BETWEEN '!' AND '~' OR text[-1] NOT BETWEEN '!' AND '~'
        THEN clean(text)
        ELSE replace(text, chr(10), ' ')
    END AS review
    FROM records
), placed AS (
    SELECT *, md5_number(getvariable('seed') || review) AS place FROM cleaned
)
SELECT
    line,
    fault,
    (place >> 64)::UBIGINT AS high,
    (place & 18446744073709551615::UHUGEINT)::UBIGINT AS low,
    review,
    label
FROM placed
"""


def parse_size(text: str) -> int:
    """Bytes of a size such as `1GB`, `512 MiB` or `2.5G`. Raises CorpusError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if found is None or found[2] not in _UNITS:
        raise CorpusError(f"{text!r} is not a size: write it as in 1GB or 512MiB (--memory-limit)")
    return int(float(found[1]) * _UNITS[found[2]])


def connect(memory_bytes: int, threads: int | None, spill: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that spills into a directory.

    threads: None for as many as there are cores and memory for. Raises CorpusError for limits that are too low.
    """
    if threads is not None and threads < 1:
        raise CorpusError(f"threads is {threads}: at least 1 is needed")
    if memory_bytes < (needed := _MEMORY_OF_A_THREAD_BYTES * (threads or 1)):
        raise CorpusError(
            f"the memory limit of {memory_bytes:,} bytes is too low for {threads or 1} threads: "
            f"raise --memory-limit to {needed:,} or lower --threads"
        )
    connection = duckdb.connect(config={"memory_limit": f"{memory_bytes}B", "temp_directory": str(spill)})
    wanted = threads or min(thread_count(connection), memory_bytes // _MEMORY_OF_A_THREAD_BYTES)
    connection.execute(f"SET threads = {wanted}")
    connection.create_function("clean", _clean, ["VARCHAR"], "VARCHAR", type=PythonUDFType.ARROW)
    return connection


def thread_count(connection: duckdb.DuckDBPyConnection) -> int:
    return int(connection.execute("SELECT current_setting('threads')").fetchall()[0][0])


def _clean(texts: pa.ChunkedArray) -> pa.Array:
    return pa.array([clean(text) for text in texts.to_pylist()], pa.string())


def cleaned(
    connection: duckdb.DuckDBPyConnection, source: Source, seed: int, spill: Path, on_bytes: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    """The records of a file in its order: columns `line`, `fault`, `high`, `low` (the place), `review` and `label`.

    Where `fault` is not null the record is malformed; an empty review is `"\\n "`. Raises CorpusError.
    """
    connection.execute("SET VARIABLE seed = ?", [str(seed)])
    failed: list[Exception] = []

    def read() -> Generator[pa.RecordBatch]:
        # DuckDB would wrap what is raised here in an error of its own.
        try:
            yield from batches(source, spill, on_bytes)
        except Exception as error:
            failed.append(error)
            raise

    with contextlib.closing(read()) as found:
        records = pa.RecordBatchReader.from_batches(SCHEMA, found)
        try:
            relation = cast(duckdb.DuckDBPyRelation, connection.from_arrow(records).query("records", _CLEANED))
            yield from relation.to_arrow_reader(_ROWS_PER_BATCH)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise (failed[0] if failed else _explained(error)) from error


def _explained(error: Exception) -> Exception:
    first_line = str(error).partition("\n")[0]
    if "Out of Memory" in first_line:
        return CorpusError(f"the memory limit is too low: raise --memory-limit or lower --threads ({first_line})")
    return error if isinstance(error, OSError) else CorpusError(f"DuckDB: {first_line}")
