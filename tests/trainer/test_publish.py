"""A published model carries its sentiment unit, calibration, statistics and a head, true of what a worker will load."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint import Checkpoint, CheckpointError, latest, read
from model.folded import FoldedModel
from model.heads import accuracy
from model.language_model import Architecture, LanguageModel
from model.reading import read_features
from model.text import prepare
from trainer.labelled import Labelled, LabelledError
from trainer.publish import Sentiment, publish

UNITS = 24
GOOD, BAD = ["great", "lovely", "superb"], ["awful", "boring", "broken"]


def labelled(rows: int, seed: int) -> Labelled:
    """The last word gives it away, so that even an untrained model, which forgets quickly, can tell."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, rows)
    texts = [f"thing {draw.integers(0, 1000)} is {draw.choice(GOOD if label else BAD)}" for label in labels]
    return Labelled(texts, [str(label) for label in labels])


SENTIMENT = Sentiment(labelled(160, 1), labelled(80, 2), labelled(80, 3))


def untrained() -> LanguageModel:
    model = LanguageModel(Architecture("mlstm", UNITS, 8))
    model.reset(torch.Generator().manual_seed(0), embedding_std=1.0)
    return model


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    volume = tmp_path_factory.mktemp("volume")
    publish(untrained(), volume, "tiny", 7, bytes_seen=999, bits_per_byte=2.5, sentiment=SENTIMENT, notes="a test")
    return volume


@pytest.fixture(scope="module")
def found(volume: Path) -> Checkpoint:
    return read(latest(volume))


def test_the_manifest_says_what_was_published(volume: Path, found: Checkpoint) -> None:
    assert latest(volume) == volume / "tiny" / "step-7"
    manifest = found.manifest
    assert (manifest.name, manifest.step, manifest.bytes_seen, manifest.bits_per_byte) == ("tiny", 7, 999, 2.5)
    assert manifest.notes == "a test"
    assert manifest.architecture == Architecture("mlstm", UNITS, 8)


def test_the_head_does_far_better_than_chance(found: Checkpoint) -> None:
    head = found.manifest.heads["sentiment"]
    assert head.labels == ["negative", "positive"]
    assert head.metrics["valid_accuracy"] > 0.9
    assert head.metrics["test_accuracy"] > 0.9
    assert 0.6 < head.metrics["test_accuracy_unit"] <= 1.0
    assert head.c is not None
    assert len(head.weights) == head.metrics["nonzero_units"]


def test_every_number_can_be_computed_again_from_the_checkpoint(found: Checkpoint) -> None:
    manifest, model = found.manifest, FoldedModel(found.model)
    assert SENTIMENT.test is not None
    x, test_x = (read_features(model, list(map(prepare, part.texts))) for part in (SENTIMENT.train, SENTIMENT.test))
    test_y = np.array(list(map(int, SENTIMENT.test.labels)))
    np.testing.assert_allclose(manifest.feature_mean, x.mean(axis=0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(manifest.feature_scale, x.std(axis=0), rtol=0, atol=1e-5)
    head = manifest.heads["sentiment"]
    assert accuracy(head, test_x, test_y) == head.metrics["test_accuracy"]
    assert manifest.sentiment is not None
    unit = test_x[:, manifest.sentiment.unit]
    predicted = np.array([manifest.sentiment.sentiment(float(value)) > 0 for value in unit])
    assert (predicted == test_y).mean() == pytest.approx(head.metrics["test_accuracy_unit"], abs=0.02)


def test_the_unit_separates_the_labels_with_its_polarity(found: Checkpoint) -> None:
    calibration = found.manifest.sentiment
    assert calibration is not None
    features = read_features(FoldedModel(found.model), list(map(prepare, SENTIMENT.valid.texts)))
    said = np.array([calibration.sentiment(float(value)) for value in features[:, calibration.unit]])
    positive = np.array(SENTIMENT.valid.labels) == "1"
    assert said[positive].mean() > 0.1
    assert said[~positive].mean() < -0.1


def test_without_labelled_texts_only_the_weights_are_published(tmp_path: Path) -> None:
    manifest = read(publish(untrained(), tmp_path, "bare", 0, 0, None, None)).manifest
    assert (manifest.sentiment, manifest.heads, manifest.feature_mean, manifest.feature_scale) == (None, {}, None, None)


def test_without_test_texts_nothing_is_said_of_them(tmp_path: Path) -> None:
    sentiment = Sentiment(SENTIMENT.train, SENTIMENT.valid)
    finished: list[int] = []
    where = publish(untrained(), tmp_path, "two", 1, 0, None, sentiment, on_progress=finished.append)
    assert not {"test_accuracy", "test_accuracy_unit"} & read(where).manifest.heads["sentiment"].metrics.keys()
    assert sum(finished) == 160 + 80


@pytest.mark.parametrize("part", ["train", "valid", "test"])
@pytest.mark.parametrize("label", ["2", "-1", "positive", "", "01"])
def test_labels_other_than_0_and_1_are_refused(tmp_path: Path, part: str, label: str) -> None:
    small = Labelled(["good", "bad", "good", "bad"], ["1", "0", "1", "0"])
    odd = Labelled([*small.texts, "x"], [*small.labels, label])
    parts = {"train": small, "valid": small, "test": small} | {part: odd}
    with pytest.raises(LabelledError, match=r"neither 0 .* nor 1"):
        publish(untrained(), tmp_path, "odd", 1, 0, None, Sentiment(**parts))
    assert not (tmp_path / "LATEST").exists()


def test_a_step_is_published_once(volume: Path) -> None:
    with pytest.raises(CheckpointError, match="exists already"):
        publish(untrained(), volume, "tiny", 7, 0, None, None)


def test_the_model_itself_is_left_as_it_was(tmp_path: Path) -> None:
    model, fresh = untrained(), untrained()
    publish(model, tmp_path, "same", 1, 0, None, Sentiment(SENTIMENT.train, SENTIMENT.valid))
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), fresh.parameters(), strict=True))
