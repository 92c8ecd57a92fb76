"""`neuron bench engine`: bytes a second of the engine, beside the machine's limit and a plain PyTorch loop.

For some widths and numbers of rows: the step's matrix products alone (the ceiling), the engine's steps on rows that
never end, and the plain loop. Then real texts, through the engine, through `read_features` and through the plain loop.

Everything is measured in one run, in rounds that take turns, and the fastest call of each counts: other work on the
machine only ever slows. No thread multiplies but the one that is timed (engine/openmp.py). Weights are random, but
those of a size are the same for all.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks import report
from benchmarks.plain_loop import PlainLoop
from engine.backend import BlockRow
from engine.engine import Engine
from engine.folded import FoldedModel
from engine.openmp import on_passing_thread
from engine.reading import read_features
from engine.rows import RowRequest, Sampling
from engine.serving import backend_for
from engine.torch_backend import TorchBackend
from model.network.language_model import Architecture, LanguageModel
from model.network.matrix import Matrix, fast_dtype
from texts.preparation import prepare
from texts.reader import read_file
from worker.settings import WorkerSettings

_LEAST_S = 0.2  # a round repeats what is shorter
_LEAST_CALLS = 3  # in a round, unless they take five times as long
_BLOCK_STEPS: int = WorkerSettings.model_fields["worker_block_steps"].default
_MAX_ROWS: int = WorkerSettings.model_fields["worker_max_rows"].default
_PLAIN_STEPS = 4
_BEYOND_CACHES = 1 << 28  # bytes: what is read to measure the memory's bandwidth
_EXAMPLES = Path(__file__).parents[1] / "examples" / "reviews.txt"

Run = Callable[[], object]


@click.command()
@click.option("--units", multiple=True, type=int, default=(1024, 2048, 4096), show_default=True, help="Repeatable.")
@click.option(
    "--rows", multiple=True, type=int, default=(1, 16, 64, 128, 256, 512), show_default=True, help="Repeatable."
)
@click.option(
    "--texts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=_EXAMPLES if _EXAMPLES.exists() else None,
    help="Real texts: a CSV file with columns of labels and texts, or a text a line. [default: the examples]",
)
@click.option("--limit", type=click.IntRange(min=1), help="Takes this many texts only.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Runs, of which the fastest counts.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def engine(
    units: tuple[int, ...],
    rows: tuple[int, ...],
    texts: Path | None,
    limit: int | None,
    device: str,
    rounds: int,
    path: Path | None,
) -> None:
    """Measure the engine: bytes a second, as ratios to the machine's limit and to a plain PyTorch loop."""
    on = torch.device(device)
    bandwidth = on_passing_thread(memory_bandwidth, on)
    found: dict[str, Any] = {
        "dtype": str(fast_dtype(on)).removeprefix("torch."),
        "memory_bytes_per_s": bandwidth,
        "block_steps": _BLOCK_STEPS,
        "rounds": rounds,
        "steps": [],
    }
    click.echo(f"memory read at {bandwidth / 1e9:.1f} GB/s; products in {found['dtype']}; bytes a second:")
    click.echo(f"{'units':>6}{'rows':>6}{'ceiling':>14}{'engine':>12}{'share':>9}{'plain loop':>12}{'ratio':>8}")
    for width in units:
        for figures in on_passing_thread(measure_steps, width, rows, on, rounds):
            found["steps"].append(figures)
            click.echo(
                f"{figures['units']:6,}{figures['rows']:6,}{figures['ceiling_bytes_per_s']:14,.0f}"
                f"{figures['engine_bytes_per_s']:12,.0f}{100 * figures['share_of_ceiling']:7.1f} %"
                f"{figures['plain_bytes_per_s']:12,.0f}{figures['ratio_vs_plain']:7.1f}x"
                + (f"  {figures['times_weights_read']:.2f}x reading the weights" if figures["rows"] == 1 else "")
            )
    if texts is not None:
        found["texts"] = measure_texts(min(units), texts, limit, on, rounds)
        click.echo("{file}: {texts:,} texts, {bytes:,} bytes, {units:,} units".format(**found["texts"]))
        for name in ("engine", "read_features", "plain"):
            click.echo(f"{name:>14}{found['texts'][name + '_bytes_per_s']:12,.0f} bytes/s")
        click.echo(f"{'engine : plain':>14}{found['texts']['ratio_vs_plain']:12.1f}")
        click.echo(f"bits per byte of the texts cost {100 * found['texts']['cost_of_scores']:.1f} % more time")
    report.write(path, found | {"machine": report.machine(on)})


def measure_steps(units: int, rows: tuple[int, ...], device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Figures of one width."""
    model, dtype = _model(units, device), fast_dtype(device)
    folded, plain = FoldedModel(model, device), PlainLoop(model)
    products = [Matrix(torch.randn(units, width, device=device).to(dtype), max(rows)) for width in (units, 4 * units)]
    found = []
    for count in rows:
        runs = {
            "ceiling": _ceiling(products, count, units, dtype, device),
            "engine": _engine(folded, count),
            "plain": _plain(plain, count, device),
        }
        seconds = _fastest(runs, device, rounds)
        step_s = {
            "ceiling": seconds["ceiling"] / _BLOCK_STEPS,
            "engine": seconds["engine"] / _BLOCK_STEPS,
            "plain": seconds["plain"] / _PLAIN_STEPS,
        }
        found.append(
            {
                "units": units,
                "rows": count,
                "ceiling_bytes_per_s": count / step_s["ceiling"],
                "engine_bytes_per_s": count / step_s["engine"],
                "share_of_ceiling": step_s["ceiling"] / step_s["engine"],
                "plain_bytes_per_s": count / step_s["plain"],
                "ratio_vs_plain": step_s["plain"] / step_s["engine"],
            }
        )
        if count == 1:
            # Below 1 if the caches hold the weights. Bandwidth varies while others use the memory: measured at once.
            bandwidth = memory_bandwidth(device)
            found[-1]["memory_bytes_per_s"] = bandwidth
            found[-1]["times_weights_read"] = step_s["engine"] * bandwidth / (5 * units * units * dtype.itemsize)
    return found


def measure_texts(units: int, path: Path, limit: int | None, device: torch.device, rounds: int) -> dict[str, Any]:
    """Figures of real texts, all there at once."""
    with read_file(path) as records:
        field = records.text_field(None, "label")
        lines = [text for chunk in records.chunks([field]) for text in chunk.columns[0] if text is not None]
    texts = [prepare(line) for line in lines[:limit]]
    if not texts:
        raise click.ClickException(f"{path} holds no texts")

    def prepared() -> tuple[PlainLoop, TorchBackend]:
        model = _model(units, device)
        backend = backend_for(FoldedModel(model, device), _MAX_ROWS)
        backend.warm_up(_MAX_ROWS, scores=True)
        return PlainLoop(model), backend

    plain, backend = on_passing_thread(prepared)

    def through_the_engine(scored: bool = False) -> None:
        loop = Engine(_MAX_ROWS, _BLOCK_STEPS)  # a new one, because an engine remembers what it has read
        loop.start()
        for row in loop.submit(backend, [RowRequest(text, scored=scored) for text in texts], threading.Event()):
            row.done.result()
        loop.close()

    seconds = _fastest(
        {
            "engine": through_the_engine,
            "engine_with_scores": lambda: through_the_engine(scored=True),
            "read_features": lambda: on_passing_thread(read_features, backend.model, texts),
            "plain": lambda: on_passing_thread(plain.read_texts, texts),
        },
        device,
        rounds,
    )
    size = sum(map(len, texts))
    return {
        "file": path.name,
        "texts": len(texts),
        "bytes": size,
        "units": units,
        **{f"{name}_bytes_per_s": size / elapsed for name, elapsed in seconds.items()},
        "ratio_vs_plain": seconds["plain"] / seconds["engine"],
        "cost_of_scores": seconds["engine_with_scores"] / seconds["engine"] - 1,
    }


def memory_bandwidth(device: torch.device) -> float:
    """Bytes a second that the device reads from its memory: the better of a sum and of a product with few rows."""
    dtype, size = fast_dtype(device), 4096
    numbers = torch.ones(_BEYOND_CACHES // 4, device=device)
    matrix = Matrix(torch.ones(size, _BEYOND_CACHES // size // dtype.itemsize, dtype=dtype, device=device), 2)
    x = torch.ones(2, size, dtype=dtype, device=device)
    return _BEYOND_CACHES / min(_fastest({"sum": numbers.sum, "product": lambda: matrix(x)}, device, 3).values())


def _model(units: int, device: torch.device) -> LanguageModel:
    """Random columns of unit length. Not orthogonal as in training: that takes minutes at 4,096 units."""
    model = LanguageModel(Architecture("mlstm", units)).to(device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2].startswith("g"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.5, generator=generator)
    return model


def _ceiling(products: list[Matrix], rows: int, units: int, dtype: torch.dtype, device: torch.device) -> Run:
    x = torch.randn(rows, units, device=device).to(dtype)
    return lambda: [product(x) for _ in range(_BLOCK_STEPS) for product in products]


def _engine(model: FoldedModel, rows: int) -> Run:
    """A block, as the engine runs them."""
    backend = backend_for(model, rows)
    text = np.random.default_rng(0).integers(32, 127, (rows, _BLOCK_STEPS), dtype=np.uint8)
    block = [BlockRow(backend.open(), _BLOCK_STEPS, line, _BLOCK_STEPS, 0, Sampling(), {}, ()) for line in text]
    return lambda: backend.run(block)


def _plain(plain: PlainLoop, rows: int, device: torch.device) -> Run:
    text = torch.randint(32, 127, (_PLAIN_STEPS, rows), device=device)
    mask = torch.ones(_PLAIN_STEPS, rows, 1, device=device)
    return lambda: plain.read(text, mask)


def _fastest(runs: dict[str, Run], device: torch.device, rounds: int) -> dict[str, float]:
    """Seconds of the fastest call of each."""
    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            calls, first = 0, time.perf_counter()
            while (began := time.perf_counter()) - first < (_LEAST_S if calls >= _LEAST_CALLS else 5 * _LEAST_S):
                calls += 1
                run()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds
