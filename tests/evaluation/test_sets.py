from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.sets import Sets, find_sets
from tests.conftest import write_packed
from tests.support.carrier import labelled, sets
from texts.faults import Faults, TextsError
from texts.labelled import Columns, Labelled
from texts.sets import IMDB, SST


def test_labels_are_in_the_order_of_numbers_or_names() -> None:
    def of(*labels: str) -> list[str]:
        part = Labelled(list(labels), list(labels))
        return Sets(part, None, part).labels

    assert of("10", "9", "2") == ["2", "9", "10"]
    assert of("pos", "neg") == ["neg", "pos"]


def test_sets_that_will_not_do() -> None:
    good = labelled(20, 0)
    with pytest.raises(TextsError, match="all rows have the label '1'"):
        Sets(Labelled(["a", "b"], ["1", "1"]), None, good)
    with pytest.raises(TextsError, match=r"test: labels 2 are not among the training part's"):
        Sets(good, None, Labelled(["a"], ["2"]))
    rare = Labelled([*good.texts, "a"], [*good.labels, "2"])
    with pytest.raises(TextsError, match="a label has 1 rows"):
        Sets(rare, None, good).splits(5)


def test_splits_hold_the_test_part_out() -> None:
    with_valid, without = sets(), sets(valid=False)
    ((fit, judge),) = with_valid.splits(5)
    assert (fit.tolist(), judge.tolist()) == (list(range(120)), list(range(120, 180)))
    folds = without.splits(5)
    assert sorted(np.concatenate([judge for _, judge in folds]).tolist()) == list(range(120))
    assert all(sorted([*fit, *judge]) == list(range(120)) for fit, judge in folds)
    assert without.splits(2)[1][1].tolist() == folds[1][1].tolist()


@pytest.mark.parametrize(
    ("names", "stems"), [(SST, ["train_binary_sent", "sst_binary_dev", "test"]), (IMDB, ["imdb_train", "imdb_test"])]
)
def test_parts_are_found_by_their_names(tmp_path: Path, names: dict[str, Any], stems: list[str]) -> None:
    for number, stem in enumerate(stems):
        (tmp_path / f"{stem}.csv").write_text(f"label,text\n0,a{number}\n1,b{number}\n")
    found = find_sets(tmp_path, names, Faults())
    parts = [found.train, found.valid, found.test] if len(stems) == 3 else [found.train, found.test]
    assert [part.texts[0] for part in parts if part] == [f"a{number}" for number in range(len(stems))]
    (tmp_path / f"{stems[0]}.csv").unlink()
    with pytest.raises(TextsError, match=r"holds no .*\.csv \(nor the same in another format, or packed\)"):
        find_sets(tmp_path, names, Faults())


def test_packed_files_and_columns(tmp_path: Path) -> None:
    content = b"stars,review,id\nbad,one,1\ngood,two,2\n"
    write_packed(tmp_path / "train.csv.xz", content)
    write_packed(tmp_path / "test.csv.gz", content)
    found = find_sets(tmp_path, IMDB, Faults(), Columns("review", "stars"))
    assert found.labels == ["bad", "good"]
    assert found.test.texts == ["one", "two"]
