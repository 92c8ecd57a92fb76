"""Recurrent classifiers beside heads: published, listed, deleted, and refused where they cannot be served."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.checkpoints import head_store
from model.checkpoints.head_store import HeadExistsError, HeadStoreError, NoSuchHeadError
from recurrent import published, storage
from recurrent.classifier import Recurrent, fit
from recurrent.options import Options
from recurrent.published import Published
from tests.recurrent.reviews import LABELS, TEXTS

SMALL = Options(embedding=4, units=4, batch_size=16, epochs=2, min_df=1)
Y = np.array([float(label == "good") for label in LABELS])


def fitted(labels: Any = ("bad", "good"), kind: Any = "binary") -> Recurrent:
    return fit(SMALL, kind, list(labels), TEXTS, Y % len(labels or "ab"), device="cpu")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    storage.write(tmp_path / "source", fitted())
    return tmp_path / "source"


def test_it_is_a_head_among_others(source: Path, tmp_path: Path) -> None:
    heads = tmp_path / "heads"
    published.publish(source, heads, "films")
    assert list(head_store.names(heads)) == ["films"]
    assert head_store.is_recurrent(heads, "films")
    found = published.read(heads, "films", "cpu")
    assert (found.model.outputs(TEXTS) == storage.read(source, "cpu").outputs(TEXTS)).all()
    listed = found.listed()
    assert (listed["kind"], listed["labels"], listed["examples"]) == ("recurrent", ["bad", "good"], len(TEXTS))
    assert listed["accuracy_interval"][0] <= listed["accuracy"] <= listed["accuracy_interval"][1]
    before = head_store.fingerprint(heads, "films")
    assert before == head_store.names(heads)["films"]
    with pytest.raises(HeadExistsError, match="there is a head 'films' already"):
        published.publish(source, heads, "films")
    with head_store.alone_in(heads):
        head_store.delete(heads, "films")
        with pytest.raises(NoSuchHeadError):
            head_store.delete(heads, "films")
    assert not head_store.names(heads)
    assert [path.name for path in heads.iterdir()] == [".lock"]
    published.publish(source, heads, "films")
    assert head_store.fingerprint(heads, "films") != before


@pytest.mark.parametrize(
    ("labels", "kind", "told"),
    [
        ((), "value", "answers a number, and the service answers labels"),
        (("a" * 101, "b"), "binary", "has 2 labels: 2 to 100 of 1 to 100 characters are served"),
        (("1", 1), "binary", "labels that are spelt alike"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path: Path, labels: Any, kind: Any, told: str) -> None:
    storage.write(tmp_path / "source", fitted(labels, kind))
    with pytest.raises(HeadStoreError) as error:
        published.publish(tmp_path / "source", tmp_path / "heads", "one")
    assert told in str(error.value)
    assert not (tmp_path / "heads").exists()


def test_one_that_may_not_be_read_hides_no_other(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = tmp_path / "heads"
    for name in ("one", "two"):
        published.publish(source, heads, name)
    scan = os.scandir

    def refusing(path: Path) -> Any:  # as to another user than root, who runs these tests in containers
        if Path(path).name == "two.rnn":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert set(head_store.names(heads)) == {"one", "two"}


def test_a_name_that_no_head_can_have(source: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadStoreError, match="use 1 to 64 of"):
        published.publish(source, tmp_path / "heads", "../one")


def test_neither_a_damaged_one_nor_a_link_is_read(source: Path, tmp_path: Path) -> None:
    heads = tmp_path / "heads"
    published.publish(source, heads, "one")
    (heads / "two.rnn").symlink_to(heads / "one.rnn")
    (heads / "three.rnn").write_text("no directory")
    assert list(head_store.names(heads)) == ["one"]
    with pytest.raises(HeadStoreError, match="reached by a link"):
        published.read(heads, "two", "cpu")
    with pytest.raises(NoSuchHeadError):
        published.read(heads, "four", "cpu")
    assert isinstance(published.read(heads, "one", "cpu"), Published)
    before = head_store.fingerprint(heads, "one")
    (heads / "one.rnn" / storage.WEIGHTS).write_bytes(b"")
    assert head_store.fingerprint(heads, "one") != before
    assert published.describe(heads, "one").listed()["labels"] == ["bad", "good"]  # the weights are not read
    with pytest.raises(HeadStoreError, match="is damaged"):
        published.read(heads, "one", "cpu")
