"""A stored classifier: read back as it was, and refused where anything of it is not what it says."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from recurrent import storage
from recurrent.classifier import Recurrent, fit
from recurrent.options import Options
from recurrent.storage import DESCRIPTION, WEIGHTS, StorageError
from tests.recurrent.reviews import LABELS, TEXTS

SMALL = Options(embedding=4, units=4, batch_size=16, epochs=1, min_df=1)


def fitted(**options: Any) -> Recurrent:
    y = np.array([float(label == "good") for label in LABELS])
    return fit(replace(SMALL, **options), "binary", ["bad", "good"], TEXTS, y, device="cpu")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    storage.write(tmp_path / "one", fitted())
    return tmp_path / "one"


@pytest.mark.parametrize("options", [{"cell": "mlstm", "layers": 2}, {"cell": "gru", "tokens": "bytes"}], ids=str)
def test_it_is_read_back_as_it_was(tmp_path: Path, options: dict[str, Any]) -> None:
    model = fitted(**options)
    storage.write(tmp_path / "new" / "one", model)
    found = storage.read(tmp_path / "new" / "one", "cpu")
    assert (found.outputs(TEXTS) == model.outputs(TEXTS)).all()
    assert (found.options, found.labels, found.history) == (model.options, model.labels, model.history)
    assert sorted(path.name for path in (tmp_path / "new" / "one").iterdir()) == [DESCRIPTION, WEIGHTS]


def test_many_labels_of_every_kind_and_numbers(tmp_path: Path) -> None:
    y = np.arange(len(TEXTS)) % 3 * 1.0
    for number, labels in enumerate(([1, 2, 3], [1.5, 2.5, 4.0], ["a", "b", "c"])):
        storage.write(tmp_path / str(number), fit(SMALL, "classes", labels, TEXTS, y, device="cpu"))
        assert storage.read(tmp_path / str(number), "cpu").labels == labels
    model = fit(SMALL, "value", [], TEXTS, y, device="cpu")
    storage.write(tmp_path / "value", model)
    assert (storage.read(tmp_path / "value", "cpu").values(TEXTS) == model.values(TEXTS)).all()


def test_it_is_never_overwritten(stored: Path) -> None:
    with pytest.raises(FileExistsError):
        storage.write(stored, fitted())


def test_what_could_not_be_read_again_is_not_kept(tmp_path: Path) -> None:
    model = replace(fitted(), labels=["bad", "go\0od"])
    with pytest.raises(StorageError, match="labels"):
        storage.write(tmp_path / "one", model)
    assert list(tmp_path.iterdir()) == []


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda record: record.update(format_version=2), "format version 2, this program reads 1"),
        (lambda record: record.update(kind="many"), "kind is 'many'"),
        (lambda record: record.update(labels=["a"]), "labels are not those of its kind"),
        (lambda record: record.update(labels=["a", "a"]), "not different words"),
        (lambda record: record.update(labels=["a", "b", "c"]), "labels are not those of its kind"),
        (lambda record: record.update(labels=["a", ["b"]]), "labels"),
        (lambda record: record.update(words=record["words"][:-1] * 2), "words are not"),
        (lambda record: record.update(words=[1]), "words are not"),
        (lambda record: record.update(spread=0), "spread is not above 0"),
        (lambda record: record.update(center="x"), "center is 'x'"),
        (lambda record: record.update(examples=-1), "examples"),
        (lambda record: record.update(held_out=10**400), "held_out is not a number of texts"),
        (lambda record: record["history"][0].update(valid_score=7), "history has an accuracy that is none"),
        (lambda record: record["options"].update(steepness=3e38), "steepness is 3e+38"),
        (lambda record: record.update(history=[{"number": "1"}]), "history"),
        (lambda record: record["options"].update(units=10**9), "units is 1000000000"),
        (lambda record: record["options"].update(learning_rate=10**400), "learning_rate is 1000"),
        (lambda record: record["options"].update(extra=1), "options that are unknown or missing: extra"),
        (lambda record: record["options"].pop("units"), "options that are unknown or missing: units"),
        (lambda record: record.pop("sha256"), "sha256"),
        (lambda record: record.update(options=5), "is not a recurrent classifier"),
        (lambda record: record["options"].update(units=16384, layers=16), "parameters, more than"),
        (lambda record: record["options"].update(units=8), "does not hold the parameters"),
        (lambda record: record.update(words=record["words"][:-1]), "does not hold the parameters"),
    ],
)
def test_a_description_that_is_not_one_is_refused(
    stored: Path, edit: Callable[[dict[str, Any]], None], told: str
) -> None:
    change(stored / DESCRIPTION, edit)
    with pytest.raises(StorageError) as error:
        storage.read(stored, "cpu")
    assert told in str(error.value)
    assert str(stored) in str(error.value)


def test_other_weights_than_those_described_are_refused(stored: Path) -> None:
    weights = stored / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(StorageError, match="is damaged: its SHA-256 is"):
        storage.read(stored, "cpu")


@pytest.mark.parametrize(
    ("value", "told"), [(torch.nan, "not made of float32 numbers"), (1e6, "up to 100000"), (None, "not a safetensors")]
)
def test_weights_that_are_no_numbers_are_refused(stored: Path, value: float | None, told: str) -> None:
    weights = stored / WEIGHTS
    tensors = load(weights.read_bytes())
    if value is not None:
        tensors["dense.bias"][0] = value
    content = save(tensors) if value is not None else b"{}" * 100
    weights.write_bytes(content)
    change(stored / DESCRIPTION, lambda record: record.update(sha256=hashlib.sha256(content).hexdigest()))
    with pytest.raises(StorageError, match=told):
        storage.read(stored, "cpu")


def test_neither_links_nor_what_is_not_there_are_read(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read: No such file"):
        storage.read(tmp_path / "none", "cpu")
    (stored / WEIGHTS).rename(tmp_path / "elsewhere")
    (stored / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="it is a link"):
        storage.read(stored, "cpu")
    (stored / DESCRIPTION).unlink()
    os.mkfifo(stored / DESCRIPTION)
    with pytest.raises(StorageError, match="not a plain file"):
        storage.read(stored, "cpu")
