"""What building a corpus costs: generated reviews of growing size, each built by `neuron corpus build` by itself.

    python -m benchmarks.corpus --gb 1.25 --gb 2.5 --gb 5 --memory-limit 1GB --json benchmarks/results/corpus.json

The input is one file of JSON lines, always the same bytes: reviews of about 400 bytes in made-up words, some of them
copies, some with character references, some lines malformed. Needs about four times the size on disk.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.report import machine, write
from contract import children
from trainer.corpus.corpus import Corpus

_ROWS_AT_ONCE = 20_000
_COPY_EVERY = 50  # lines of the file
_REFERENCES_EVERY = 10
_MALFORMED_EVERY = 10_000


@click.command()
@click.option("--gb", "sizes", type=float, multiple=True, default=(1.25, 2.5, 5.0), show_default=True)
@click.option("--shards", default=1000, show_default=True)
@click.option("--memory-limit", default="1GB", show_default=True)
@click.option(
    "--directory", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Default: the system's."
)
@click.option("--json", "report_file", type=click.Path(path_type=Path))
def main(
    sizes: tuple[float, ...], shards: int, memory_limit: str, directory: Path | None, report_file: Path | None
) -> None:
    runs = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=directory) as place:
            source = Path(place) / "reviews.jsonl"
            generate(source, int(size * 1e9))
            runs.append(measure(source, Path(place) / "corpus", shards, memory_limit))
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


def generate(path: Path, size: int) -> None:
    """Write at least `size` bytes of JSON lines."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = ["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(5000)] + ["café", 'so-called \\"gem\\"']
    sentences = [
        " ".join(words[index] for index in (rng.random(12) ** 2 * len(words)).astype(int)) + "." for _ in range(20_000)
    ]
    with_references = [sentence.replace(" ", " &amp; ", 1).replace(".", " &#34;wow&#34;.") for sentence in sentences]
    previous, number, written = "", 0, 0
    with path.open("wb") as file:
        while written < size:
            lengths = 2 + rng.geometric(1 / 3, _ROWS_AT_ONCE)
            chosen = rng.integers(0, len(sentences), lengths.sum()).tolist()
            rows, used = [], 0
            for length in lengths.tolist():
                number += 1
                material = with_references if number % _REFERENCES_EVERY == 0 else sentences
                if number % _COPY_EVERY:
                    previous = " ".join([material[index] for index in chosen[used : used + length]])
                used += length
                end = '"}' if number % _MALFORMED_EVERY else ""
                rows.append(f'{{"asin": "B{number:09d}", "overall": 5.0, "reviewText": "{previous}{end}\n')
            written += file.write("".join(rows).encode())


def measure(source: Path, out: Path, shards: int, memory_limit: str) -> dict[str, Any]:
    """Build in a process of its own: MB/s of the input and the most memory that the process held."""
    command = [
        *children.command("cli.main", "corpus", "build", str(source), "--out", str(out)),
        *("--shards", str(shards), "--text-field", "reviewText", "--memory-limit", memory_limit),
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
        "mb_per_cpu_s": round(size / 1e6 / (usage.ru_utime + usage.ru_stime), 1),
        "peak_rss_mb": round(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6),
    }


if __name__ == "__main__":
    main()
