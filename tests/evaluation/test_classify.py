import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from evaluation import classify, histogram
from evaluation.features import Reader
from evaluation.sets import Sets
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.heads.classifier import C_GRID, Head
from model.heads.pooling import Pooling
from tests.support.carrier import UNIT, assert_pictures, carrier, flipped, labelled, sets
from texts.labelled import Labelled

_MEASURED = {"accuracy_all", "accuracy_unit", "accuracy_unit_no_labels", "accuracy_unit_calibrated", "accuracy_tfidf"}


def test_the_unit_that_carries_the_label_is_seen_by_all_but_the_baseline(reader: Reader, tmp_path: Path) -> None:
    report = classify.evaluate(reader, sets(), folds=5)
    report.write(tmp_path, reader.described())
    values = json.loads((tmp_path / "report.json").read_text())
    for name in ("accuracy_all", "accuracy_unit", "accuracy_unit_no_labels", "accuracy_unit_calibrated"):
        assert values[name] == 1.0, name
    assert values["accuracy_tfidf"] < 0.75  # the mark is no word
    assert values["accuracy_shipped_head"] is None
    assert values["unit"] == UNIT
    assert values["C"] in C_GRID
    assert values["nonzero"] >= 1
    assert values["checkpoint"] == "carrier/step-3"
    assert values["labels"] == ["0", "1"]
    assert values["rows"] == {"train": 120, "valid": 60, "test": 60}
    assert set(values) >= {"protocol", "bits_per_byte", "bytes_seen", "standardized", "threshold", "tfidf", "machine"}
    text = (tmp_path / "report.md").read_text()
    assert "| the one unit, its sign, no labels | 100.0 % |" in text
    assert "![choice](choice.png)" in text
    assert_pictures(tmp_path, ["choice"])


def test_the_mean_is_measured_without_what_is_fitted_to_cells(directory: Path, tmp_path: Path) -> None:
    reader = Reader(directory, tmp_path / "cache", "mean")
    values = classify.evaluate(reader, sets(), folds=5).values
    assert values["accuracy_all"] == values["accuracy_unit"] == 1.0
    assert values["accuracy_unit_calibrated"] is None
    assert reader.described()["pooling"] == "mean"
    (table,) = histogram.evaluate(reader, labelled(20, 4), None).tables
    assert table.caption.startswith("Mean hidden value")


@pytest.mark.parametrize("pooling", ["cell", "mean"])
def test_the_checkpoints_head_is_given_the_features_it_takes(tmp_path: Path, pooling: Pooling) -> None:
    """Whichever are evaluated. Its threshold of 0.9 is between the marks' cells, and above all of their means."""
    model = carrier()
    head = Head(["neg", "pos"], {UNIT: [1.0]}, [-0.9], pooling=pooling)
    manifest = Manifest("headed", 3, model.architecture, 1000, 2.5, {}, heads={"sentiment": head})
    headed = volumes.publish(tmp_path / "volume", model, manifest, torch.float32)
    of_the_first_label = sets().test.labels.count("0") / 60
    for asked in get_args(Pooling):
        values = classify.evaluate(Reader(headed, tmp_path / "cache", asked), sets(), folds=5).values
        assert values["accuracy_shipped_head"] == (1.0 if pooling == "cell" else of_the_first_label)


def test_a_unit_is_found_where_the_checkpoint_names_none(reader: Reader, tmp_path: Path) -> None:
    model = carrier()
    bare = Manifest("bare", 1, model.architecture, 1000, None, {})
    own = Reader(volumes.publish(tmp_path / "volume", model, bare, torch.float32), tmp_path / "cache")
    values = classify.evaluate(own, sets(), folds=5).values
    assert (values["unit"], values["accuracy_unit"]) == (UNIT, 1.0)
    assert values["accuracy_unit_no_labels"] is None


def test_three_labels_by_folds(reader: Reader) -> None:
    values = classify.evaluate(reader, sets(valid=False, marks="-+."), folds=2).values
    assert values["accuracy_all"] > 0.9
    assert values["labels"] == ["0", "1", "2"]
    assert values["accuracy_unit"] is None
    assert values["chosen_on"] == "2 of 5 folds of the training part"


def test_the_baseline_reads_words(reader: Reader) -> None:
    def with_words(part: Labelled) -> Labelled:
        said = [
            f"{text} {'lovely' if label == '1' else 'awful'}" for text, label in zip(*vars(part).values(), strict=True)
        ]
        return Labelled(said, part.labels)

    one = sets()
    assert one.valid is not None
    worded = Sets(with_words(one.train), with_words(one.valid), with_words(one.test))
    assert classify.evaluate(reader, worded, folds=5).values["accuracy_tfidf"] == 1.0


@pytest.mark.parametrize("valid", [True, False])
def test_classify_chooses_nothing_on_the_test_part(reader: Reader, valid: bool) -> None:
    one = sets(noise=0.25, valid=valid)
    values = classify.evaluate(reader, one, folds=3).values
    other = classify.evaluate(reader, replace(one, test=flipped(one.test)), folds=3).values
    assert 0.5 < values["accuracy_all"] < 1.0
    for name in _MEASURED:
        assert other[name] == pytest.approx(1 - values[name]), name
    assert {k: v for k, v in other.items() if k not in _MEASURED} == {
        k: v for k, v in values.items() if k not in _MEASURED
    }
