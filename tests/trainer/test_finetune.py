"""Fine-tuning learns a task, keeps its best epoch, continues exactly where it stopped, and publishes what it learnt."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import checkpoint, volumes
from model.checkpoints.manifest import Manifest
from model.heads.classifier import accuracy
from model.heads.unit import Calibration
from model.network.language_model import Architecture, LanguageModel
from tests.support.tasks import labelled
from texts.labelled import Labelled
from texts.preparation import prepare
from trainer.finetuning import finetune
from trainer.finetuning.finetune import Finetuning
from trainer.finetuning.options import FinetuningOptions
from trainer.finetuning.task import digest
from trainer.finetuning.tuned import check_size, publish_tuned
from trainer.run.options import TrainingError

UNITS, UNIT = 24, 7


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = LanguageModel(Architecture("mlstm", UNITS, 8))
    model.reset(torch.Generator().manual_seed(0), embedding_std=1.0)
    unit = Calibration(UNIT, polarity=1, center=0.0, scale=1.0)
    manifest = Manifest("base", 3, model.architecture, 100, 8.0, {}, sentiment=unit)
    return volumes.publish(tmp_path_factory.mktemp("start"), model, manifest, torch.float32)


def options(start: Path, train: Labelled, valid: Labelled, **changes: Any) -> FinetuningOptions:
    tiny = FinetuningOptions(
        str(start),
        sorted(set(train.labels)),
        digest(train, valid),
        rows=8,
        window=16,
        learning_rate=1e-2,
        epochs=4,
        dtype="float32",
        fuse=False,
        device="cpu",
    )
    return replace(tiny, **changes)


def begun(directory: Path, start: Path, labels: str = "01", **changes: Any) -> Finetuning:
    train, valid = labelled(120, labels), labelled(24, labels, begin=120)
    return Finetuning.begin(directory, options(start, train, valid, **changes), train, valid, lambda _: None)


def parameters(tuning: Finetuning) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in tuning.objective.named_parameters()}


@pytest.mark.parametrize("labels", ["01", "012"])
def test_it_learns_a_task_and_publishes_its_read_out_as_the_head(tmp_path: Path, start: Path, labels: str) -> None:
    valid, test = labelled(24, labels, 120), labelled(24, labels, 144)
    tuning = begun(tmp_path / "run", start, labels, epochs=10, patience=10)
    assert tuning.validate().accuracy < 0.7
    assert tuning.run()
    published, head = publish_tuned(tuning, tmp_path / "volume", "mine", "task", test)
    assert head.metrics["test_accuracy"] > 0.9
    assert head.metrics["valid_accuracy"] > 0.9
    assert (head.pooling, head.labels) == ("cell", list(labels))
    read = checkpoint.read(published)
    assert volumes.latest(tmp_path / "volume") == published
    assert read.manifest.heads == {"task": head}
    features = read_features(FoldedModel(read.model), [prepare(text) for text in test.texts])
    assert accuracy(head, features, [labels.index(label) for label in test.labels]) == head.metrics["test_accuracy"]
    assert read.manifest.bytes_seen == 100 + tuning.progress.bytes_seen
    if labels == "01":
        assert read.manifest.sentiment is not None
        assert read.manifest.sentiment.unit == UNIT
        assert read.manifest.unit_histogram is not None
        assert sum(map(sum, read.manifest.unit_histogram.counts.values())) == len(valid.texts)
        assert head.metrics["test_accuracy_unit"] > 0.8
        assert tuning.epoch > 0, "the unit has learned"
    else:
        assert read.manifest.sentiment is None, "such labels do not say sentiment"
        assert read.manifest.unit_histogram is None
        assert "test_accuracy_unit" not in head.metrics


def test_stopped_in_an_epoch_it_goes_on_to_the_bit(tmp_path: Path, start: Path) -> None:
    straight = begun(tmp_path / "straight", start)
    assert straight.run()
    halves = begun(tmp_path / "halves", start)
    assert not halves.run(lambda update: halves.stop() if update == 17 else None)
    assert halves.epoch == 1
    again = begun(tmp_path / "halves", start)
    assert (again.epoch, again.progress.step) == (1, 15)
    assert again.run()
    assert straight.epoch == again.epoch
    for name, value in parameters(straight).items():
        assert torch.equal(value, parameters(again)[name]), name
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("straight", "halves")]
    assert logs[0] == logs[1]
    assert [json.loads(line)["epoch"] for line in logs[0].splitlines()] == list(range(straight.epoch + 1))


def test_the_best_epoch_is_kept_and_patience_ends(tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.4, 0.5, 0.75, 0.75, 0.7, 0.9])
    monkeypatch.setattr(Finetuning, "validate", lambda _: finetune.Scores(1.0, next(scores), 0.5))
    tuning = begun(tmp_path / "run", start, epochs=9, patience=2)
    seen: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(tuning, "_note", lambda _: seen.append(parameters(tuning)))
    assert tuning.run()
    assert tuning.epoch == 4, "the second was the best, two more did not better it"
    tuning.best()
    assert tuning.epoch == 2
    for name, value in seen[2].items():
        assert torch.equal(value, parameters(tuning)[name]), name
    assert begun(tmp_path / "run", start, epochs=9, patience=2).run(), "there is nothing left to do"


def test_of_equals_the_epoch_of_the_best_unit_is_kept(
    tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [(0.5, 0.5), (0.75, 0.5), (0.75, 0.6), (0.75, 0.6), (0.7, 0.9)]
    for labels, best in (("01", 2), ("12", 1)):
        given = iter(scores)
        monkeypatch.setattr(Finetuning, "validate", lambda _, given=given: finetune.Scores(1.0, *next(given)))
        tuning = begun(tmp_path / labels, start, labels, epochs=4)
        assert tuning.run()
        tuning.best()
        assert tuning.epoch == best, "of labels that are not sentiment no unit is published"


def test_the_model_as_it_came_is_published_where_no_epoch_is_better(
    tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.9, 0.8, 0.8])
    with monkeypatch.context() as patched:
        patched.setattr(Finetuning, "validate", lambda _: finetune.Scores(1.0, next(scores), 0.5))
        tuning = begun(tmp_path / "run", start)
        assert tuning.run()
        assert tuning.epoch == 2
    published, head = publish_tuned(tuning, tmp_path / "volume", "mine", "task", None)
    assert published.name == "step-0"
    assert head.metrics["valid_accuracy"] > 0.9
    was, now = checkpoint.read(start), checkpoint.read(published)
    assert now.manifest.notes == "As base/step-3, with a head for a task."
    for name, value in was.model.state_dict().items():
        torch.testing.assert_close(now.model.state_dict()[name], value, rtol=1e-2, atol=1e-2, msg=name)  # in bfloat16


def test_stopped_before_its_first_epoch_it_begins_again(
    tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Finetuning._read

    def stopping(self: Finetuning, *given: Any) -> Any:
        self.stop()
        return read(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Finetuning, "_read", stopping)
        assert not begun(tmp_path / "halves", start).run()
    halves, straight = begun(tmp_path / "halves", start), begun(tmp_path / "straight", start)
    assert halves.run()
    assert straight.run()
    for name, value in parameters(straight).items():
        assert torch.equal(value, parameters(halves)[name]), name


def test_a_model_without_a_sentiment_unit_learns_a_task(tmp_path: Path, start: Path) -> None:
    base = checkpoint.read(start)
    without = volumes.publish(tmp_path / "without", base.model, replace(base.manifest, sentiment=None), torch.float32)
    tuning = begun(tmp_path / "run", without)
    assert tuning.run()
    published, head = publish_tuned(tuning, tmp_path / "volume", "mine", "task", None)
    assert head.metrics["valid_accuracy"] > 0.9
    assert checkpoint.read_manifest(published).sentiment is None


def test_another_fine_tuning_in_the_same_directory_is_refused(tmp_path: Path, start: Path) -> None:
    begun(tmp_path / "run", start)
    with pytest.raises(TrainingError, match="holds another fine-tuning, which differs in epochs"):
        begun(tmp_path / "run", start, epochs=5)
    with pytest.raises(TrainingError, match="differs in labels"):
        begun(tmp_path / "run", start, "012")


def test_one_whose_volume_serves_another_checkpoint_by_then_is_refused(tmp_path: Path, start: Path) -> None:
    base = checkpoint.read(start)
    volume = tmp_path / "volume"
    volumes.publish(volume, base.model, base.manifest, torch.float32)
    begun(tmp_path / "run", volume)
    begun(tmp_path / "run", volume)
    volumes.publish(volume, base.model, replace(base.manifest, step=base.manifest.step + 1), torch.float32)
    with pytest.raises(TrainingError, match="differs in checkpoint_sha256"):
        begun(tmp_path / "run", volume)


@pytest.mark.parametrize("epochs", [1, 2])
def test_stopped_while_it_validates_it_says_what_is_saved(
    tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    validate = Finetuning.validate

    def stopping(self: Finetuning) -> Any:
        if self.epoch == epochs:
            self.stop()
        return validate(self)

    tuning = begun(tmp_path / "run", start)
    with monkeypatch.context() as patched:
        patched.setattr(Finetuning, "validate", stopping)
        assert not tuning.run()
    assert tuning.epoch == epochs - 1 == begun(tmp_path / "run", start).epoch


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_one_that_failed_at_its_start_begins_on_another_device(tmp_path: Path, start: Path) -> None:
    with pytest.raises(TrainingError, match="--device cuda cannot be used: "):
        begun(tmp_path / "run", start, device="cuda")
    assert not (tmp_path / "run").exists()
    begun(tmp_path / "run", start)
    begun(tmp_path / "run", start, device="auto", dtype="bfloat16", fuse=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": 0}, "--rows is 0"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0, it must be more than 0"),
        ({"language_weight": -1.0}, "--language-weight is -1.0, it must be at least 0"),
        ({"labels": ["0"]}, "there are 1 different labels, not 2 to 100"),
    ],
)
def test_options_that_make_no_sense(start: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        options(start, labelled(8), labelled(8), **changes)


def test_a_head_that_no_manifest_could_hold_is_refused_before() -> None:
    check_size(4096, 50)
    with pytest.raises(TrainingError, match="a head of 100 labels on 4096 units takes"):
        check_size(4096, 100)
