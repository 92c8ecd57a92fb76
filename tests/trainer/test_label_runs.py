"""Runs that learn labels: what they learn, what they say of held-out reviews, and that they continue to the bit."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoints import checkpoint, volumes
from model.checkpoints.manifest import Manifest
from model.heads.unit import Calibration
from model.network import cells
from model.network.language_model import Architecture, LanguageModel
from tests.support.runs import (
    LANES,
    STEP_BYTES,
    WINDOW,
    assert_identical,
    ignore,
    logged,
    options,
    write_corpus,
    write_labelled_corpus,
)
from texts.labelled import Labelled
from texts.sets import Sentiment
from trainer.corpus.corpus import Corpus
from trainer.publishing.heads import HeadSpec
from trainer.publishing.publish import publish_run
from trainer.run.lanes import Lanes
from trainer.run.options import Options, TrainingError
from trainer.run.train import Run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled_corpus(tmp_path_factory.mktemp("corpus") / "built", shards=12)


def labelled(corpus: Path, **changes: object) -> Options:
    return options(corpus, label_weight=0.5, unit_weight=0.5, label_unit=3, validation_bytes=10**6, **changes)


def test_a_tiny_run_learns_labels(corpus: Path, tmp_path: Path) -> None:
    chosen = labelled(corpus, units=24, lanes=4, total_bytes=300 * 4 * WINDOW, learning_rate=0.02)
    run = Run.create(tmp_path / "run", chosen, ignore)
    losses = [run.step()[0] for _ in range(300)]
    for name, first, last in zip(("bits", "labels", "unit"), losses[0], np.mean(losses[-20:], axis=0), strict=True):
        assert last < 0.5 * first, name
    found = run.validate()
    assert found.bits_per_byte < 2.5
    assert found.label_accuracy == 1.0
    assert found.unit_accuracy is not None
    assert found.unit_accuracy > 0.9


def test_lanes_have_the_label_of_every_byte(corpus: Path) -> None:
    built = Corpus(corpus)
    lanes = Lanes(built, LANES, WINDOW, labels=True)
    for _ in range(60):
        cursors = [(cursor.shard, cursor.offset) for cursor in lanes.cursors]
        cut = lanes.next()
        classes, weights = cut.labels
        assert classes.shape == weights.shape == (WINDOW, LANES)
        for lane, (before, cursor) in enumerate(zip(cursors, lanes.cursors, strict=True)):
            entries = built.training[lane::LANES]
            reviews = built.read_reviews(entries[cursor.shard % len(entries)])
            assert reviews is not None
            begin = cursor.offset - WINDOW
            assert begin in (0, before[1])
            expected = reviews.window(begin, cursor.offset)
            assert np.array_equal(classes[:, lane], expected[0])
            assert np.array_equal(weights[:, lane], expected[1])
    assert not Lanes(built, LANES, WINDOW).next().labels


def test_the_held_out_accuracy_is_that_of_the_last_byte_of_every_whole_review(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", labelled(corpus, lanes=1), ignore)
    for _ in range(30):
        run.step()
    built, read_out = Corpus(corpus), run.objective.read_out
    reviews = built.read_reviews(built.validation)
    assert reviews is not None
    assert read_out is not None
    text = torch.from_numpy(built.read(built.validation).astype(np.int64))
    steps = (len(text) - 1) // WINDOW * WINDOW
    right, all_of_them = np.zeros(2), 0.0
    with torch.no_grad():
        weights, state = run.model.cell.weights(run.model.embedding), run.model.zero_state(1)
        for place, byte in enumerate(text[:steps]):
            state = cells.step("mlstm", weights, byte[None], state)
            for number in np.flatnonzero(reviews.ends - 1 == place):
                weight = float(reviews.weights[number])
                right += [weight * (int(logits.argmax()) == reviews.classes[number]) for logits in read_out(state.cell)]
                all_of_them += weight
    assert 0 < all_of_them < len(reviews.starts), "some have no label"
    found = run.validate()
    assert [found.label_accuracy, found.unit_accuracy] == pytest.approx(right / all_of_them)


def test_a_run_with_labels_resumes_to_the_bit(corpus: Path, tmp_path: Path) -> None:
    straight = Run.create(tmp_path / "straight", labelled(corpus, optimizer="muon"), ignore)
    first = Run.create(tmp_path / "halves", labelled(corpus, optimizer="muon"), ignore)
    for _ in range(10):
        straight.step(), first.step()
    first.save()
    torch.rand(1)
    second = Run.resume(tmp_path / "halves", ignore)
    assert_identical(straight, second)
    for _ in range(10):
        assert straight.step() == second.step()
    assert_identical(straight, second)


def test_what_the_log_says_of_labels(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", labelled(corpus, total_bytes=4 * STEP_BYTES), ignore)
    run.train(peak_flops=1e12)
    record = logged(tmp_path / "run")[-1]
    for name in ("label_bits", "unit_label_bits", "validation_label_accuracy", "validation_unit_accuracy"):
        assert 0 <= record[name] < 10, name
    plain = Run.create(tmp_path / "plain", options(corpus, total_bytes=4 * STEP_BYTES), ignore)
    plain.train(peak_flops=1e12)
    assert not [name for name in logged(tmp_path / "plain")[-1] if "label" in name or "unit" in name]


def test_the_unit_is_the_checkpoint_s_unless_named(corpus: Path, tmp_path: Path) -> None:
    model = LanguageModel(Architecture("mlstm", 16, 8))
    model.reset(torch.Generator().manual_seed(0), embedding_std=0.5)
    unit = Calibration(11, polarity=1, center=0.0, scale=1.0)
    manifest = Manifest("base", 1, model.architecture, 500, 8.0, {}, sentiment=unit)
    start = str(volumes.publish(tmp_path / "volume", model, manifest))
    for changes, expected in (
        ({"start_from": start, "label_unit": None}, 11),
        ({"start_from": start}, 3),
        ({"label_unit": None}, 0),
    ):
        run = Run.create(tmp_path / f"run-{expected}", replace(labelled(corpus), **changes), ignore)  # type: ignore[arg-type]
        assert run.options.label_unit == expected
        assert run.objective.read_out is not None
        assert run.objective.read_out.unit == expected
    assert Run.create(tmp_path / "plain", options(corpus, start_from=start), ignore).options.label_unit is None


def test_what_is_published_has_the_unit_that_was_trained(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", labelled(corpus), ignore)
    run.step()
    run.save()
    texts = Labelled([f"{word} {n}" for n in range(20) for word in ("dull", "fine")], ["0", "1"] * 20)
    published = publish_run(tmp_path / "run", tmp_path / "volume", evaluation=Sentiment(texts, texts))
    sentiment = checkpoint.read_manifest(published).sentiment
    assert sentiment is not None
    assert sentiment.unit == 3


def test_heads_are_fitted_to_the_labels_of_the_run_s_corpus(corpus: Path, tmp_path: Path) -> None:
    chosen = labelled(corpus, units=24, lanes=4, total_bytes=200 * 4 * WINDOW, learning_rate=0.02)
    run = Run.create(tmp_path / "run", chosen, ignore)
    for _ in range(200):
        run.step()
    run.save()
    specs = [HeadSpec.parse("sentiment:negative=bad positive=good"), HeadSpec.parse("verdict:no=bad yes=good")]
    published = checkpoint.read_manifest(publish_run(tmp_path / "run", tmp_path / "volume", heads=specs, reviews=100))
    assert list(published.heads) == ["sentiment", "verdict"]
    assert published.heads["verdict"].labels == ["no", "yes"]
    assert published.sentiment is not None
    assert published.sentiment.unit == 3
    for head in published.heads.values():
        assert head.metrics["test_accuracy"] > 0.95
        assert head.calibration is not None
        assert "reviews of the corpus' validation shard" in head.calibration.data
    manifest = json.loads((corpus / "manifest.json").read_text()) | {"seed": 5}
    (tmp_path / "again").mkdir()
    for path in corpus.iterdir():
        (tmp_path / "again" / path.name).symlink_to(path)
    (tmp_path / "again" / "manifest.json").unlink()
    (tmp_path / "again" / "manifest.json").write_text(json.dumps(manifest))
    replace(chosen, corpus=str(tmp_path / "again")).write(tmp_path / "run")
    with pytest.raises(TrainingError, match="was built anew since"):
        publish_run(tmp_path / "run", tmp_path / "volume", heads=specs, reviews=100)


def test_labels_that_cannot_be_learnt(corpus: Path, tmp_path: Path) -> None:
    plain = write_corpus(tmp_path / "plain")
    with pytest.raises(TrainingError, match="plain has no labels: build it with --labels or --label-field"):
        Run.create(tmp_path / "run", labelled(plain), ignore)
    for changes, said in (
        ({"label_weight": -0.5}, "--label-weight is -0.5, it must be at least 0"),
        ({"label_unit": 16}, "--label-unit is 16, the model has units 0 to 15"),
        ({"label_weight": 0.0, "unit_weight": 0.0}, "--label-unit needs --label-weight or --unit-weight"),
    ):
        with pytest.raises(TrainingError, match=said):
            replace(labelled(corpus), **changes)  # type: ignore[arg-type]
    assert json.loads((corpus / "manifest.json").read_text())["labels"]["classes"] == {"bad": ["bad"], "good": ["good"]}
