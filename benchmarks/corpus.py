"""What building a corpus costs: generated reviews of growing size, each built by `neuron corpus build` by itself.

    python -m benchmarks.corpus --gb 1.25 --gb 2.5 --gb 5 --memory-limit 1GB --json benchmarks/results/corpus.json

The input is one file of each --format, always the same reviews: of about 400 bytes, in made-up words, some of them
copies, some with character references, some records malformed. --gb is the size of the reviews. Needs about four
times that on disk.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.report import machine, write
from contract import children
from trainer.corpus.corpus import Corpus

_SUFFIXES = {"text": "txt", "csv": "csv", "json": "jsonl", "parquet": "parquet"}
_ROWS_AT_ONCE = 20_000
_COPY_EVERY = 50  # lines of the file
_REFERENCES_EVERY = 10
_MALFORMED_EVERY = 10_000


@click.command()
@click.option("--gb", "sizes", type=float, multiple=True, default=(1.25, 2.5, 5.0), show_default=True)
@click.option(
    "--format", "formats", type=click.Choice(["text", "csv", "json", "parquet"]), multiple=True, default=("json",)
)
@click.option("--shards", default=1000, show_default=True)
@click.option("--memory-limit", default="1GB", show_default=True)
@click.option(
    "--directory", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Default: the system's."
)
@click.option("--json", "report_file", type=click.Path(path_type=Path))
def main(
    sizes: tuple[float, ...],
    formats: tuple[str, ...],
    shards: int,
    memory_limit: str,
    directory: Path | None,
    report_file: Path | None,
) -> None:
    runs = []
    for form, size in product(formats, sizes):
        with tempfile.TemporaryDirectory(dir=directory) as place:
            source = generate(Path(place), form, int(size * 1e9))
            runs.append({"format": form} | measure(source, Path(place) / "corpus", shards, memory_limit))
        click.echo(json.dumps(runs[-1]))
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    report = {
        "command": " ".join(["python", "-m", "benchmarks.corpus", *sys.argv[1:]]),
        "memory_limit": memory_limit,
        "shards": shards,
        "runs": runs,
        "machine": machine(torch.device("cpu"))
        | {"memory_gb": round(memory_bytes / 1e9, 1), "duckdb": version("duckdb"), "pyarrow": version("pyarrow")},
        "note": "shared machine",
    }
    write(report_file, report)


def generate(directory: Path, form: str, size: int) -> Path:
    """Write a file of reviews with at least `size` bytes of them."""
    path = directory / f"reviews.{_SUFFIXES[form]}"
    written, number = 0, 0
    with contextlib.ExitStack() as stack:
        write_rows = _parquet(path, stack) if form == "parquet" else _lines(stack.enter_context(path.open("wb")), form)
        for some in reviews():
            write_rows(number, some)
            number += len(some)
            written += sum(map(len, some))
            if written >= size:
                return path
    raise AssertionError("reviews have no end")


def _lines(file: BinaryIO, form: str) -> Callable[[int, list[str]], None]:
    """Writes rows as text, CSV or JSON lines; every malformed one as that format is broken most often."""
    fine, broken, header = {
        "text": ("{text}\n", "\udcff{text}\n", ""),
        "csv": ('B{number:09d},5.0,"{text}"\n', 'B{number:09d},5.0,"{text}",\n', "asin,overall,reviewText\n"),
        "json": (
            '{{"asin": "B{number:09d}", "overall": 5.0, "reviewText": "{text}"}}\n',
            '{{"asin": "B{number:09d}", "overall": 5.0, "reviewText": "{text}\n',
            "",
        ),
    }[form]
    quote = {"text": '"', "csv": '""', "json": '\\"'}[form]
    file.write(header.encode())

    def write_rows(first: int, reviews: list[str]) -> None:
        rows = (
            (fine if number % _MALFORMED_EVERY else broken).format(number=number, text=text.replace('"', quote))
            for number, text in enumerate(reviews, first + 1)
        )
        file.write("".join(rows).encode("utf-8", "surrogateescape"))

    return write_rows


def _parquet(path: Path, stack: contextlib.ExitStack) -> Callable[[int, list[str]], None]:
    schema = pa.schema([("asin", pa.string()), ("overall", pa.float64()), ("reviewText", pa.string())])
    writer = stack.enter_context(pq.ParquetWriter(path, schema))

    def write_rows(first: int, reviews: list[str]) -> None:
        numbers = range(first + 1, first + 1 + len(reviews))
        texts = [text if number % _MALFORMED_EVERY else None for number, text in zip(numbers, reviews, strict=True)]
        columns = [[f"B{number:09d}" for number in numbers], [5.0] * len(reviews), texts]
        writer.write_batch(pa.record_batch([pa.array(column) for column in columns], schema=schema))

    return write_rows


def reviews() -> Iterator[list[str]]:
    """Reviews without end, some thousands at once."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = ["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(5000)] + ["café", 'so-called "gem"']
    sentences = [
        " ".join(words[index] for index in (rng.random(12) ** 2 * len(words)).astype(int)) + "." for _ in range(20_000)
    ]
    with_references = [sentence.replace(" ", " &amp; ", 1).replace(".", " &#34;wow&#34;.") for sentence in sentences]
    previous, number = "", 0
    while True:
        lengths = 2 + rng.geometric(1 / 3, _ROWS_AT_ONCE)
        chosen = rng.integers(0, len(sentences), lengths.sum()).tolist()
        rows, used = [], 0
        for length in lengths.tolist():
            number += 1
            material = with_references if number % _REFERENCES_EVERY == 0 else sentences
            if number % _COPY_EVERY:
                previous = " ".join([material[index] for index in chosen[used : used + length]])
            used += length
            rows.append(previous)
        yield rows


def measure(source: Path, out: Path, shards: int, memory_limit: str) -> dict[str, Any]:
    """Build in a process of its own: MB/s of the input and the most memory that the process held."""
    command = [
        *children.command("cli.main", "corpus", "build", str(source), "--out", str(out)),
        *("--shards", str(shards), "--memory-limit", memory_limit),
        *(() if source.suffix == ".txt" else ("--text-field", "reviewText")),
    ]
    begin = time.monotonic()
    child = os.posix_spawn(command[0], command, children.environment(os.environ))
    _, status, usage = os.wait4(child, 0)
    wall_s = time.monotonic() - begin
    if status:
        raise click.ClickException(f"`{' '.join(command)}` ended with {os.waitstatus_to_exitcode(status)}")
    manifest = Corpus(out).manifest
    size = source.stat().st_size
    shutil.rmtree(out)
    return {
        "input_bytes": size,
        "records": manifest.reviews + manifest.duplicates + manifest.empty + manifest.malformed,
        "reviews": manifest.reviews,
        "duplicates": manifest.duplicates,
        "malformed": manifest.malformed,
        "corpus_bytes": sum(shard.bytes for shard in manifest.shards),
        "wall_s": round(wall_s, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "mb_per_s": round(size / 1e6 / wall_s, 1),
        "corpus_mb_per_s": round(sum(shard.bytes for shard in manifest.shards) / 1e6 / wall_s, 1),
        "mb_per_cpu_s": round(size / 1e6 / (usage.ru_utime + usage.ru_stime), 1),
        "peak_rss_mb": round(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6),
    }


if __name__ == "__main__":
    main()
