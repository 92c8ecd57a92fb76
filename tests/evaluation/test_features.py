from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.reading import read_features, read_texts
from evaluation import features, generation, shifts
from evaluation.features import EvaluationError, Reader
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.heads.unit import Calibration
from tests.support.carrier import UNIT, UNITS, carrier, labelled, letters
from texts.preparation import prepare


def test_the_mark_is_what_the_unit_holds(reader: Reader) -> None:
    found = reader.features(["a + b", "a - b", "a b"])[:, UNIT]
    assert found == pytest.approx([1.0, -1.0, 0.0], abs=0.02)


def test_features_are_those_of_reading(reader: Reader) -> None:
    texts = labelled(20, 4).texts
    expected = read_features(reader.model, [prepare(text) for text in texts])
    assert np.array_equal(reader.features(texts), expected)


def test_what_was_read_once_is_not_read_again(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK", 8)
    texts = labelled(20, 5).texts
    before = Reader(directory, tmp_path).features(texts)
    read: list[int] = []
    real = read_texts

    def counted(model: Any, chunk: list[bytes], *rest: Any, **options: Any) -> Any:
        read.append(len(chunk))
        return real(model, chunk, *rest, **options)

    monkeypatch.setattr(features, "read_texts", counted)
    advanced: list[int] = []
    progress = features.Progress(advance=advanced.append)
    assert np.array_equal(Reader(directory, tmp_path, progress=progress).features(texts), before)
    assert read == []
    assert sum(advanced) == len(texts)
    Reader(directory, tmp_path).features([*texts[:8], "another", *texts[9:]])
    assert read == [8]  # the chunk with another text, and no other


def test_an_interrupted_reading_goes_on(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK", 8)
    texts, real, read = labelled(20, 6).texts, read_texts, 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal read
        read += 1
        if read == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(features, "read_texts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Reader(directory, tmp_path).features(texts)
    kept = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert [Path(name).suffix for name in kept] == [".npy"]
    Reader(directory, tmp_path).features(texts)
    assert read == 4  # the first chunk once


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"not an array", None])
def test_a_damaged_file_is_read_anew(directory: Path, tmp_path: Path, damage: bytes | None) -> None:
    texts = labelled(5, 7).texts
    before = Reader(directory, tmp_path).features(texts)
    (file,) = tmp_path.rglob("*.npy")
    if damage is None:
        np.save(file, np.zeros((2, 5, UNITS + 1), dtype=np.float32))
    else:
        file.write_bytes(damage)
    assert np.array_equal(Reader(directory, tmp_path).features(texts), before)
    assert np.array_equal(np.load(file, allow_pickle=False)[0], before)


def test_a_checkpoint_has_files_of_its_own_for_all_poolings(directory: Path, tmp_path: Path) -> None:
    other = carrier(seed=1)
    manifest = Manifest("other", 3, other.architecture, 1000, 2.5, {}, Calibration(UNIT, 1, 0.0, 1.0))
    published = volumes.publish(tmp_path / "volume", other, manifest, torch.float32)
    texts, cache = labelled(5, 8).texts, tmp_path / "cache"
    cell = Reader(directory, cache).features(texts)
    assert np.allclose(Reader(directory, cache, "tanh").features(texts), np.tanh(cell))
    assert not np.array_equal(Reader(published, cache).features(texts), cell)
    mean = Reader(directory, cache, "mean")
    assert np.array_equal(mean.features(texts), read_features(mean.model, list(map(prepare, texts)), "mean"))
    assert len(list(cache.rglob("*.npy"))) == 2


def test_what_needs_a_sentiment_unit_says_so(tmp_path: Path) -> None:
    model = carrier()
    bare = Manifest("bare", 1, model.architecture, 1000, None, {})
    own = Reader(volumes.publish(tmp_path / "volume", model, bare, torch.float32), tmp_path / "cache")
    with pytest.raises(EvaluationError, match="bare/step-1 has no sentiment unit"):
        generation.evaluate(own, letters(20, 1), None, 2, 5, 1.0, 0)
    with pytest.raises(EvaluationError, match="bare/step-1 has no sentiment unit"):
        shifts.evaluate(own, ["a"], None)
