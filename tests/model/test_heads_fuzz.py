"""Whatever a head says of itself and whatever it is fitted on: it gives probabilities, or it is refused by name."""

import json
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from model.checkpoints import checkpoint, volumes
from model.checkpoints.checkpoint import MANIFEST, CheckpointError
from model.heads.checks import HeadError
from model.heads.classifier import Head, fit_l1, head_probabilities
from model.heads.unit import calibrate, find_unit, fit_threshold
from tests.support.checkpoints import MANIFEST as VALID
from tests.support.checkpoints import UNITS, tiny_model
from tests.support.examples import examples
from tests.support.features import FEATURES, assert_probabilities
from tests.support.hostile import SPITEFUL, distorted

FUZZ = settings(deadline=None, max_examples=examples(300), suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = volumes.publish(tmp_path_factory.mktemp("volume"), tiny_model(), VALID, torch.float32)
    return Path(shutil.copytree(where, tmp_path_factory.mktemp("scratch") / "copy"))


@given(data=st.data())
@FUZZ
def test_a_distorted_head_in_a_manifest_gives_probabilities_or_is_refused(scratch: Path, data: st.DataObject) -> None:
    record = json.loads((scratch / MANIFEST).read_text()) | {"heads": "HEADS"}
    heads = data.draw(distorted(json.loads(json.dumps({name: asdict(head) for name, head in VALID.heads.items()}))))
    copy = scratch.with_name("distorted")
    copy.mkdir(exist_ok=True)
    (copy / MANIFEST).write_bytes(json.dumps(record).encode().replace(b'"HEADS"', heads))
    try:
        manifest = checkpoint.read_manifest(copy)
    except CheckpointError:
        return
    for head in manifest.heads.values():
        for features in FEATURES:
            assert_probabilities(head, features)


@given(
    labels=st.lists(st.text(max_size=3), max_size=4),
    weights=st.dictionaries(st.integers(-2, UNITS + 1), st.lists(st.floats(-9, 9), max_size=4), max_size=4),
    bias=st.lists(st.floats(-9, 9), max_size=4),
)
@example(labels=["a", "b"], weights={0: [1.0, 2.0], 1: []}, bias=[0.0])
@example(labels=["a", "b", "c"], weights={0: [1.0]}, bias=[0.0])
@example(labels=["a", "b"], weights={-1: [1.0]}, bias=[0.0])
@FUZZ
def test_a_head_made_by_hand_gives_probabilities_or_is_refused(
    labels: list[str], weights: dict[int, list[float]], bias: list[float]
) -> None:
    assume(len(labels) > 1)
    head = Head(labels=labels, weights=weights, bias=bias)
    try:
        head_probabilities(head, FEATURES[0])
    except HeadError:
        return
    for features in FEATURES:
        assert_probabilities(head, features)


@pytest.mark.parametrize("features", [None, "x", [[]], [1.0], [["a"] * UNITS], [[None] * UNITS], [[1j] * UNITS], {}])
def test_what_are_no_features_is_refused(features: object) -> None:
    with pytest.raises(HeadError):
        head_probabilities(VALID.heads["sentiment"], features)  # type: ignore[arg-type]


NUMBERS = st.sampled_from([value for value in SPITEFUL if isinstance(value, float)]) | st.floats(width=32)
LABELS = [0, 1, 0, 1, 1, 0]


@given(rows=st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=6, max_size=6))
@example(rows=[[5e-324 * label, 1e30 * label] for label in LABELS])
@example(rows=[[1e308 * label, -1e308] for label in LABELS])
@settings(FUZZ, max_examples=examples(60))
def test_whatever_is_fitted_is_finite_or_refused(rows: list[list[float]]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Liblinear failed to converge")
        try:
            head = fit_l1(rows, LABELS, rows, LABELS, ["no", "yes"])
        except HeadError:
            pass
        else:
            assert_probabilities(head, np.array(rows))
        column = [row[0] for row in rows]
        for fitted in (
            lambda: find_unit(rows, LABELS),
            lambda: fit_threshold(column, LABELS)[0],
            lambda: calibrate(column, LABELS, 0).value(1.0),
        ):
            try:
                assert np.isfinite(fitted())
            except HeadError:
                continue


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        ([[1.0], [1.0, 2.0]], [0, 1]),
        ([["a"], ["b"]], [0, 1]),
        ([[None], [None]], [0, 1]),
        ([[1.0], [2.0]], [[0], [0, 1]]),
        ([[1.0], [2.0]], ["0", "1"]),
        ([[1.0], [2.0]], [0, 10**30]),
        ([[10**400], [2.0]], [0, 1]),
        ([], []),
    ],
)
def test_what_cannot_be_fitted_is_refused(rows: list[object], labels: list[object]) -> None:
    for fit in (find_unit, fit_threshold):
        with pytest.raises(HeadError):
            fit(rows, labels)
