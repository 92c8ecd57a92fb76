"""A model while it learned: held-out bits per byte, and accuracy of all units and of one, against bytes read.

The checkpoints are those that a run published on its way (`neuron train --publish-every-steps`). The unit is found
again in each, on the training part: where no unit carries sentiment yet, it is the one that comes nearest.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from evaluation.classify import fit_all, read_material, with_threshold
from evaluation.features import EvaluationError, Reader
from evaluation.report import COLOURS, Report, Table, percent
from evaluation.sets import Sets
from model.heads.pooling import Pooling
from model.heads.unit import find_unit

_POOLINGS: tuple[Pooling, ...] = ("cell", "mean")
_POINT = {"manifest_sha256", "bytes_seen", "bits_per_byte", "unit", "accuracy_cell", "accuracy_mean", "accuracy_unit"}
_NAMES = {"cell": "all units, final cell", "mean": "all units, mean over the text", "unit": "the one unit"}


def evaluate(readers: Iterable[Reader], sets: Sets, earlier: Sequence[Mapping[str, Any]] = ()) -> Report:
    """readers: of the checkpoints, in any order; one is in memory at a time. sets: of two labels, with a
    validation part. earlier: the values of earlier reports, whose points are of checkpoints that are no longer kept.
    """
    if len(sets.labels) != 2:
        raise EvaluationError(f"the one unit needs two labels; these are {sets.labels}")
    kept = {point["manifest_sha256"]: point for report in earlier for point in _points_of(report, sets)}
    for reader in readers:
        if reader.manifest_sha256 not in kept:
            kept[reader.manifest_sha256] = _point(reader, sets)
    if not kept:
        raise EvaluationError("there is no checkpoint to evaluate")
    points = sorted(kept.values(), key=lambda point: int(point["bytes_seen"]))
    table = Table(
        f"Accuracy on {len(sets.test.texts):,} test texts, fitted on {len(sets.train.texts):,}.",
        ["bytes read", "bits per byte", *_NAMES.values(), "unit"],
        [
            [
                f"{point['bytes_seen']:,}",
                "-" if point["bits_per_byte"] is None else f"{point['bits_per_byte']:.3f}",
                *(percent(point[f"accuracy_{name}"]) for name in _NAMES),
                point["unit"],
            ]
            for point in points
        ],
    )
    return Report("growth", {"points": points, **sets.described()}, [table], {"growth": _figure(points)})


def _points_of(report: Mapping[str, Any], sets: Sets) -> list[dict[str, Any]]:
    """Raises EvaluationError unless they are of the same sets."""
    described = sets.described()
    if report.get("protocol") != "growth" or {name: report.get(name) for name in described} != described:
        raise EvaluationError(
            f"the earlier report is of {report.get('protocol')!r} on {report.get('rows')} texts, this one of 'growth' "
            f"on {described['rows']}: give reports of `neuron evaluate growth` on the same sets"
        )
    points = report.get("points")
    if not isinstance(points, list) or not all(isinstance(one, dict) and one.keys() >= _POINT for one in points):
        raise EvaluationError(f"the earlier report has no points with {', '.join(sorted(_POINT))}")
    return points


def _point(reader: Reader, sets: Sets) -> dict[str, Any]:
    found: dict[str, Any] = {
        "checkpoint": reader.name,
        "manifest_sha256": reader.manifest_sha256,
        "bytes_seen": reader.manifest.bytes_seen,
        "bits_per_byte": reader.manifest.bits_per_byte,
    }
    for pooling in _POOLINGS:
        material = read_material(reader, sets, folds=1, pooling=pooling)
        _, linear = fit_all(reader, material)
        found[f"accuracy_{pooling}"] = linear.accuracy(material.test_x, material.test_y)
        if pooling == "cell":
            found["unit"] = unit = find_unit(material.train_x, material.train_y)
            found["accuracy_unit"] = with_threshold(material, unit)["accuracy_unit"]
    return found


def _figure(points: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    read = [point["bytes_seen"] / 1e6 for point in points]
    measured = [(x, point["bits_per_byte"]) for x, point in zip(read, points, strict=True) if point["bits_per_byte"]]
    above.plot([x for x, _ in measured], [bits for _, bits in measured], marker="o", color=COLOURS[3])
    above.set_ylabel("held-out bits per byte")
    for colour, (name, label) in zip(COLOURS, _NAMES.items(), strict=False):
        below.plot(read, [point[f"accuracy_{name}"] for point in points], marker="o", color=colour, label=label)
    below.set_xlabel("bytes read, in millions")
    below.set_ylabel("test accuracy")
    below.legend(frameon=False)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
