"""Recurrent classifiers: texts a second learned from and answered, beside the loop that tutorials show.

That loop is the same network, optimizer and batch size in plain torch, with batches by chance that are padded to their
longest text. Both run in turn, in one process, on the same texts, whose lengths are spread as those of IMDB are.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks import report
from recurrent.classifier import Recurrent
from recurrent.learning import Labelled, Learner, read
from recurrent.options import Options
from recurrent.tokens import Ragged

# Of the logarithm of a review's tokens: the median has 200, one in a hundred more than 1,000.
_MEDIAN, _SPREAD = 200, 0.7
_MOST = 2_500
_WORDS = 20_000
_TEXTS = 64  # of a batch


@click.command()
@click.option("--texts", type=click.IntRange(_TEXTS), default=1024, show_default=True)
@click.option("--cell", "cells", type=click.Choice(["gru", "lstm"]), multiple=True, default=("gru", "lstm"))
@click.option("--units", type=click.IntRange(1), default=Options.units, show_default=True)
@click.option(
    "--runs", type=click.IntRange(1), default=3, show_default=True, help="Of each, in turn; the median counts."
)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def recurrent(texts: int, cells: tuple[str, ...], units: int, runs: int, path: Path | None) -> None:
    """Texts a second of recurrent classifiers, beside a plain padded loop."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    material = _reviews(texts)
    found: list[dict[str, Any]] = []
    click.echo("cell  what      texts/s  plain loop  ratio")
    for cell in cells:
        chosen: dict[str, Any] = {"batch_size": _TEXTS, "cell": cell, "units": units, "embedding": units}
        options = Options(**chosen)
        model = _model(options, device)
        ours = {
            "fit": lambda model=model: Learner(model.network, "binary", model.options, 0).pass_over(material),
            "predict": lambda model=model: read(model.network, material.texts, _TEXTS),
        }
        plain = _plain(options, material, device)
        for what, act in ours.items():
            figures = _in_turn(act, plain[what], runs, texts)
            found.append({"cell": cell, "what": what, **figures})
            click.echo(
                f"{cell:5} {what:8} {figures['texts_per_s']:8,.0f} {figures['plain_texts_per_s']:11,.0f} "
                f"{figures['ratio']:6.2f}"
            )
    about = {"machine": report.machine(device), "texts": texts, "units": units, "runs": runs}
    report.write(path, about | {"figures": found})


def _in_turn(ours: Callable[[], Any], plain: Callable[[], Any], runs: int, texts: int) -> dict[str, float]:
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for name, act in itertools.islice(itertools.cycle((("ours", ours), ("plain", plain))), 2 * runs):
        began = time.perf_counter()
        act()
        times[name].append(time.perf_counter() - began)
    speeds = {name: texts / median(taken) for name, taken in times.items()}
    return {
        "texts_per_s": speeds["ours"],
        "plain_texts_per_s": speeds["plain"],
        "ratio": speeds["ours"] / speeds["plain"],
    }


def _reviews(count: int) -> Labelled:
    draw = np.random.default_rng(0)
    lengths = np.clip(np.exp(draw.normal(np.log(_MEDIAN), _SPREAD, count)), 5, _MOST).astype(np.int64)
    tokens = [draw.integers(1, _WORDS, length).astype(np.int32) for length in lengths]
    return Labelled(Ragged.joined(tokens), draw.integers(0, 2, count).astype(np.float64))


def _model(options: Options, device: torch.device) -> Recurrent:
    """One that knows `_WORDS` words."""
    words = " ".join(f"w{number}" for number in range(_WORDS - 1))
    return Recurrent.new(replace(options, min_df=1), "binary", ["0", "1"], [words], np.zeros(1), 0, device.type)


def _plain(options: Options, material: Labelled, device: torch.device) -> dict[str, Callable[[], None]]:
    network = _Plain(options).to(device)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    draw = np.random.default_rng(1)

    def batches() -> Iterator[NDArray[np.int64]]:
        order = draw.permutation(len(material))
        yield from (order[begin : begin + _TEXTS] for begin in range(0, len(order), _TEXTS))

    def answer(chosen: NDArray[np.int64]) -> Tensor:
        tokens, lengths = (torch.from_numpy(part).to(device) for part in material.texts.padded(chosen))
        found: Tensor = network(tokens, lengths)
        return found

    def fit() -> None:
        network.train()
        for chosen in batches():
            y = torch.from_numpy(material.y[chosen]).float().to(device)
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(answer(chosen), y).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()

    def predict() -> None:
        network.eval()
        with torch.no_grad():
            for chosen in batches():
                answer(chosen)

    return {"fit": fit, "predict": predict}


class _Plain(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        cell = {"gru": nn.GRU, "lstm": nn.LSTM}[options.cell]
        self.embedding = nn.Embedding(_WORDS, options.embedding)
        self.cell = cell(options.embedding, options.units, bidirectional=True)
        self.dropout = nn.Dropout(options.dropout)
        self.dense = nn.Linear(2 * options.units, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        hidden, _ = self.cell(self.dropout(self.embedding(tokens)))
        outside = torch.arange(len(tokens), device=tokens.device)[:, None] >= lengths
        pooled = hidden.masked_fill(outside[:, :, None], -torch.inf).amax(0)
        logits: Tensor = self.dense(self.dropout(pooled))[:, 0]
        return logits
