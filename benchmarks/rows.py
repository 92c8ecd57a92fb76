"""Rows in, rows out without a model: what reading, checking, writing and joining a file of rows costs, and its memory.

The rows are reviews of some 400 bytes with an id; every result is the same. Each file is answered in a process of its
own, whose peak counts.
"""

import csv
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import report
from benchmarks.corpus import reviews
from sentiment_neuron import rows as rows_of
from texts.dialect import AS_IT_IS
from texts.faults import Faults

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere
_RESULTS: dict[str, rows_of.Kind] = {"label": "string", "score": "number", "probability_positive": "number"}
_RESULT: dict[str, object] = {"label": "positive", "score": 0.75, "probability_positive": 0.75}


@click.command()
@click.option("--rows", "counts", type=int, multiple=True, default=(100_000, 1_000_000), show_default=True)
@click.option(
    "--format",
    "suffixes",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    multiple=True,
    default=("csv", "jsonl", "parquet"),
    show_default=True,
    help="Of the input and of the output.",
)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def rows(counts: tuple[int, ...], suffixes: tuple[str, ...], path: Path | None) -> None:
    """Rows a second and memory of a file that is answered row by row, without a model."""
    found: list[dict[str, Any]] = []
    click.echo("format         rows       MB  rows/s  peak MB")
    for suffix in suffixes:
        for count in counts:
            with tempfile.TemporaryDirectory() as place:
                source = _write(Path(place) / f"in.{suffix}", count)
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    seconds, peak = pool.apply(_answer, (source, Path(place) / f"out.{suffix}"))
                size = source.stat().st_size
            figures = {"format": suffix, "rows": count, "bytes": size, "seconds": seconds, "peak_rss_mb": peak / 1e6}
            found.append(figures | {"rows_per_s": count / seconds})
            click.echo(f"{suffix:8} {count:10,} {size / 1e6:8,.0f} {count / seconds:7,.0f} {peak / 1e6:8,.0f}")
    report.write(path, {"machine": report.machine(torch.device("cpu")), "runs": found})


def _answer(source: Path, out: Path) -> tuple[float, int]:
    """Seconds, and the most bytes that this process has held."""
    began = time.perf_counter()
    read = rows_of.RowFile(source, "review", AS_IT_IS)
    answer = lambda texts: [_RESULT] * len(texts)  # noqa: E731
    rows_of.answer_file(read, out, _RESULTS, answer, {}, Faults(), lambda _rows: None)
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def _write(path: Path, count: int) -> Path:
    match path.suffix:
        case ".csv":
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["id", "review"])
                writer.writerows(_numbered(count))
        case ".jsonl":
            with path.open("w") as file:
                file.writelines(json.dumps({"id": number, "review": text}) + "\n" for number, text in _numbered(count))
        case _:
            schema = pa.schema([("id", pa.int64()), ("review", pa.string())])
            with pq.ParquetWriter(path, schema) as parquet:
                numbered = _numbered(count)
                while some := list(islice(numbered, 20_000)):
                    parquet.write_batch(pa.record_batch(list(map(list, zip(*some, strict=True))), schema=schema))
    return path


def _numbered(count: int) -> Iterator[tuple[int, str]]:
    texts = (text for some in reviews() for text in some)
    return enumerate(islice(texts, count))
