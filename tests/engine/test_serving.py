"""What a worker says of the checkpoint that it serves."""

from dataclasses import replace
from pathlib import Path

from contract.jobs import ModelInfo, TopUnit, UnitHistogram
from engine import serving
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.heads.classifier import Head
from tests.support.checkpoints import MANIFEST, UNITS, tiny_model


def served(volume: Path, manifest: Manifest) -> ModelInfo:
    return serving.load(volumes.publish(volume, tiny_model(), manifest), "cpu", "float32", 4).info


def test_top_units_are_by_weight_times_deviation(tmp_path: Path) -> None:
    deviations = [1.0] * UNITS
    deviations[0] = 4.0
    info = served(tmp_path, replace(MANIFEST, feature_scale=deviations))
    assert info.top_units == {
        "sentiment": [TopUnit(unit=0, weights=[0.5]), TopUnit(unit=7, weights=[-1.25])],
        "stars": [TopUnit(unit=2, weights=[1.0, 0.0, -1.0])],
    }
    bare = served(tmp_path / "bare", replace(MANIFEST, feature_scale=None))
    assert [one.unit for one in bare.top_units["sentiment"]] == [7, 0]


def test_a_head_on_means_has_no_top_units(tmp_path: Path) -> None:
    """The manifest has no deviations of them."""
    heads = MANIFEST.heads | {"stars": replace(MANIFEST.heads["stars"], pooling="mean")}
    info = served(tmp_path, replace(MANIFEST, heads=heads))
    assert list(info.top_units) == ["sentiment"]
    assert list(info.heads) == ["sentiment", "stars"]


def test_top_units_leave_a_heartbeat_small(tmp_path: Path) -> None:
    many = [str(number) for number in range(4096 // UNITS)]
    large = Head(many, {unit: [1.0] * len(many) for unit in range(UNITS)}, [0.0] * len(many))
    info = served(tmp_path, replace(MANIFEST, heads={"large": large, **MANIFEST.heads}))
    assert list(info.top_units) == ["large"]
    assert sum(len(one.weights) for one in info.top_units["large"]) == 4096
    info = served(tmp_path / "other", replace(MANIFEST, heads={**MANIFEST.heads, "large": large}))
    assert list(info.top_units) == ["sentiment", "stars"]


def test_the_histogram_is_that_of_the_manifest(tmp_path: Path) -> None:
    counts = {"negative": [7, 2], "positive": [0, 8]}
    assert served(tmp_path, MANIFEST).unit_histogram == UnitHistogram(
        edges=[-1.5, 0.25, 2.0], counts=counts, data="texts"
    )
    assert served(tmp_path / "bare", replace(MANIFEST, unit_histogram=None)).unit_histogram is None
