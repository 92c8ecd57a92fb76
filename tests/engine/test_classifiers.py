"""Published classifiers in memory: each is read once while anything uses it, and few stay that nothing uses."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from engine import classifiers
from engine.classifiers import Classifiers
from model.checkpoints.head_store import NoSuchHeadError
from recurrent import published, storage
from recurrent.classifier import fit
from recurrent.options import Options
from tests.recurrent.reviews import LABELS, TEXTS


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    options = Options(embedding=4, units=4, batch_size=16, epochs=1, min_df=1)
    y = np.array([float(label == "good") for label in LABELS])
    storage.write(tmp_path / "source", fit(options, "binary", ["bad", "good"], TEXTS, y, device="cpu"))
    for name in ("one", "two"):
        published.publish(tmp_path / "source", tmp_path / "heads", name)
    return tmp_path / "heads"


def test_one_that_is_used_is_not_read_again(heads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "KEPT_PARAMETERS", 0)
    found = Classifiers(heads, "cpu")
    one = found.get("one")
    assert found.get("two") is found.get("two")  # the last is always kept
    assert found.get("one") is one
    two = weakref.ref(found.get("two"))
    found.get("one")
    gc.collect()
    assert two() is None


def test_those_that_fit_stay_until_their_files_go(heads: Path) -> None:
    found = Classifiers(heads, "cpu")
    kept = [weakref.ref(found.get(name)) for name in ("one", "two")]
    gc.collect()
    assert [found.get(name) for name in ("one", "two")] == [one() for one in kept]
    found.keep_only({"two"})
    gc.collect()
    assert [one() is None for one in kept] == [True, False]
    with pytest.raises(NoSuchHeadError):
        found.get("three")
