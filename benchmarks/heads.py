"""What fitting a head costs, once its texts are read: seconds and memory of model/heads/cross_validation.py by itself.

    python -m benchmarks.heads --size 20000 1024 --size 100000 4096 --json benchmarks/results/heads-cpu.json

The features are made up: forty factors that all units share, noise, and a label that depends on sixty. With --liblinear
one fit of scikit-learn's liblinear, at C = 1, stands beside them; a cross-validation has 46 fits.
"""

import multiprocessing
import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.report import machine, write
from model.heads.cross_validation import fit_cv, fit_unit_cv

_ROWS_AT_ONCE = 2000
_FACTORS, _TELLING = 40, 60


@click.command()
@click.option("--size", "sizes", type=(int, int), multiple=True, default=[(20_000, 1024)], help="Examples and units.")
@click.option("--liblinear", is_flag=True, help="Also one fit of liblinear; needs 40 bytes a feature.")
@click.option("--json", "report_file", type=click.Path(path_type=Path))
def main(sizes: list[tuple[int, int]], liblinear: bool, report_file: Path | None) -> None:
    """Time and memory of fits on made-up features of these sizes, each in a process of its own."""
    kinds = ["all units", "one unit", *(["one fit of liblinear"] if liblinear else [])]
    rows: list[dict[str, Any]] = []
    for examples, units in sizes:
        for kind in kinds:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(_measure, (kind, examples, units)))
            click.echo("  ".join(f"{name} {value}" for name, value in rows[-1].items()))
    arguments = " ".join(f"--size {examples} {units}" for examples, units in sizes)
    command = f"python -m benchmarks.heads {arguments}{' --liblinear' if liblinear else ''}"
    write(
        report_file,
        {"command": command, "machine": machine(torch.device("cpu")), "numpy": version("numpy"), "fits": rows},
    )


def _measure(kind: str, examples: int, units: int) -> dict[str, Any]:
    features, labels = _made_up(examples, units)
    before = _peak_mib()
    began = time.perf_counter()
    match kind:
        case "all units":
            accuracy = fit_cv(features, labels, 2).accuracy
        case "one unit":
            accuracy = fit_unit_cv(features, labels).accuracy
        case _:
            from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - only this solver needs it

            fitted = LogisticRegression(l1_ratio=1.0, C=1.0, solver="liblinear", random_state=0, max_iter=1000)
            accuracy = fitted.fit(features, labels).score(features[:1000], labels[:1000])
    return {
        "kind": kind,
        "examples": examples,
        "units": units,
        "seconds": round(time.perf_counter() - began, 1),
        "features_mib": round(features.nbytes / 2**20),
        "before_mib": round(before),
        "peak_mib": round(_peak_mib()),
        "accuracy": round(float(accuracy or 0), 3),
    }


def _made_up(examples: int, units: int) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, Any]]:
    draw = np.random.default_rng(0)
    features = np.empty((examples, units), np.float32)
    spread = 0.15 * draw.standard_normal((_FACTORS, units), dtype=np.float32)
    for begin in range(0, examples, _ROWS_AT_ONCE):
        part = features[begin : begin + _ROWS_AT_ONCE]
        part[:] = draw.standard_normal((len(part), _FACTORS), dtype=np.float32) @ spread
        part += draw.standard_normal(part.shape, dtype=np.float32)
    telling = draw.choice(units, _TELLING, replace=False)
    odds = features[:, telling] @ (0.3 * draw.standard_normal(_TELLING, dtype=np.float32))
    return features, (draw.random(examples) < 1 / (1 + np.exp(-odds))).astype(np.int64)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
