"""Long texts: what a byte costs and what memory they take, from a kilobyte to megabytes, through the engine.

The model has random weights. Processor time counts, not time on the wall: other work on the machine hardly changes it.
It has one thread: products of one row gain nothing from a second, whose waiting for the first would count.
"""

import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks import report
from engine.engine import Engine
from engine.folded import FoldedModel
from engine.rows import RowRequest
from engine.torch_backend import TorchBackend
from model.network.language_model import Architecture, LanguageModel

_LEAST_BYTES = 20_000  # short texts are read one after another until they make up so many
_WARM_UP_BYTES = 10_000
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere


@click.command(name="long-texts")
@click.option("--units", default=64, show_default=True, help="Size of the model.")
@click.option(
    "--size",
    "sizes",
    type=int,
    multiple=True,
    default=(1_000, 10_000, 100_000, 1_000_000),
    show_default=True,
    help="Bytes of a text. Repeatable. A megabyte takes a minute or two.",
)
@click.option("--block-steps", default=16, show_default=True, help="As NEURON_WORKER_BLOCK_STEPS.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def long_texts(units: int, sizes: tuple[int, ...], block_steps: int, path: Path | None) -> None:
    """Cost of a byte and growth of memory by the length of a text."""
    torch.set_num_threads(1)
    model = LanguageModel(Architecture("mlstm", units, embedding_size=64))
    model.reset(torch.Generator().manual_seed(0))
    backend = TorchBackend(FoldedModel(model), max_rows=1)
    engine = Engine(max_rows=1, block_steps=block_steps)
    engine.start()
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    try:
        _read(engine, backend, random, _WARM_UP_BYTES)  # what is initialised lazily
        click.echo("     bytes  CPU us/byte  MiB more than before")
        for size in sizes:
            peak = _peak_mib()
            texts = max(1, _LEAST_BYTES // size)
            cpu_s = sum(_read(engine, backend, random, size) for _ in range(texts))
            figures = {
                "bytes": size,
                "cpu_us_per_byte": 1e6 * cpu_s / (size * texts),
                "mib_more": _peak_mib() - peak,
            }
            rows.append(figures)
            click.echo("{bytes:10,}  {cpu_us_per_byte:11.1f}  {mib_more:20.1f}".format(**figures))
    finally:
        engine.close()
    report.write(
        path, {"machine": report.machine(torch.device("cpu")), "units": units, "block_steps": block_steps, "rows": rows}
    )


def _read(engine: Engine, backend: TorchBackend, random: np.random.Generator, size: int) -> float:
    """Seconds of processor time for one text that was never read before."""
    text = random.integers(32, 127, size, dtype=np.uint8).tobytes()
    began = time.process_time()
    (row,) = engine.submit(backend, [RowRequest(text)], threading.Event())
    row.done.result()
    return time.process_time() - began


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / 2**20


if __name__ == "__main__":
    long_texts()
