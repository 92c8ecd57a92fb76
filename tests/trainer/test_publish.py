"""A published model carries its sentiment unit, calibration, statistics and a head, true of what a worker will load.

And it comes from a run that may continue training meanwhile.
"""

import hashlib
import math
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.folded import FoldedModel
from engine.reading import SCORED, read_features, read_texts
from model.checkpoints.checkpoint import Checkpoint, CheckpointError, read
from model.checkpoints.manifest import Manifest
from model.checkpoints.volumes import latest
from model.heads.classifier import accuracy, fit_l1
from model.network.cells import step
from model.network.language_model import Architecture
from tests.conftest import wait_until
from tests.support.snapshots import UNITS, RunOnDisk, untrained
from texts.faults import TextsError
from texts.labelled import Labelled
from texts.preparation import prepare
from texts.sets import Sentiment
from trainer.corpus.build import build_corpus
from trainer.corpus.corpus import MANIFEST, Corpus
from trainer.publishing.material import of_files
from trainer.publishing.publish import _reading_device, publish, publish_run
from trainer.run.options import Options, TrainingError
from trainer.run.snapshot import SnapshotError, snapshots

GOOD, BAD = ["great", "lovely", "superb"], ["awful", "boring", "broken"]


def labelled(rows: int, seed: int) -> Labelled:
    """The last word gives it away, so that even an untrained model, which forgets quickly, can tell."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, rows)
    texts = [f"thing {draw.integers(0, 1000)} is {draw.choice(GOOD if label else BAD)}" for label in labels]
    return Labelled(texts, [str(label) for label in labels])


SENTIMENT = Sentiment(labelled(160, 1), labelled(80, 2), labelled(80, 3))


def manifest(step: int, name: str = "tiny") -> Manifest:
    return Manifest(name, step, untrained().architecture, bytes_seen=999, bits_per_byte=2.5, sha256={}, notes="a test")


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    volume = tmp_path_factory.mktemp("volume")
    publish(untrained(), volume, manifest(7), of_files(SENTIMENT))
    return volume


@pytest.fixture(scope="module")
def found(volume: Path) -> Checkpoint:
    return read(latest(volume))


# ---- what is published of a model


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
    test_features = read_features(model, list(map(prepare, SENTIMENT.test.texts)), head.pooling)
    assert accuracy(head, test_features, test_y) == head.metrics["test_accuracy"]
    assert manifest.sentiment is not None
    unit = test_x[:, manifest.sentiment.unit]
    predicted = np.array([manifest.sentiment.sentiment(float(value)) > 0 for value in unit])
    assert (predicted == test_y).mean() == head.metrics["test_accuracy_unit"]


def test_the_head_reads_what_told_most_on_the_validation_part(found: Checkpoint) -> None:
    model, poolings = FoldedModel(found.model), ("cell", "mean")
    reported = []
    for pooling in poolings:
        x, valid_x = (
            read_features(model, list(map(prepare, part.texts)), pooling) for part in (SENTIMENT.train, SENTIMENT.valid)
        )
        fitted = fit_l1(
            x, np.array(SENTIMENT.train.binary()), valid_x, np.array(SENTIMENT.valid.binary()), ["negative", "positive"]
        )
        reported.append(fitted.metrics["valid_accuracy"])
    head = found.manifest.heads["sentiment"]
    assert head.pooling == poolings[int(np.argmax(reported))]
    assert head.metrics["valid_accuracy"] == max(reported)


def test_the_unit_separates_the_labels_with_its_polarity(found: Checkpoint) -> None:
    calibration = found.manifest.sentiment
    assert calibration is not None
    features = read_features(FoldedModel(found.model), list(map(prepare, SENTIMENT.valid.texts)))
    said = np.array([calibration.sentiment(float(value)) for value in features[:, calibration.unit]])
    positive = np.array(SENTIMENT.valid.labels) == "1"
    assert said[positive].mean() > 0.1
    assert said[~positive].mean() < -0.1


def test_the_histogram_is_of_the_validation_texts(found: Checkpoint) -> None:
    calibration, shown = found.manifest.sentiment, found.manifest.unit_histogram
    assert calibration is not None
    assert shown is not None
    assert shown.data == "80 validation texts"
    values = read_features(FoldedModel(found.model), list(map(prepare, SENTIMENT.valid.texts)))[:, calibration.unit]
    for label, name in (("0", "negative"), ("1", "positive")):
        of_label = values[np.array(SENTIMENT.valid.labels) == label]
        assert shown.counts[name] == np.histogram(of_label, shown.edges)[0].tolist()
        assert sum(shown.counts[name]) == len(of_label)


def test_the_limits_of_familiarity_are_those_of_the_validation_texts(tmp_path: Path) -> None:
    many = labelled(2100, 2)
    found = read(publish(untrained(), tmp_path, manifest(1), of_files(Sentiment(SENTIMENT.train, many))))
    familiarity, model = found.manifest.familiarity, FoldedModel(found.model)
    assert familiarity is not None
    texts = list(map(prepare, many.texts))
    assert familiarity.lengths == [16]
    assert familiarity.texts == [sum(len(text) >= 16 for text in texts)]
    scores = np.empty((len(texts), len(SCORED)), dtype=np.float32)
    read_texts(model, texts, scores=scores)
    long_enough = np.array([len(text) >= 16 for text in texts])
    per_byte = scores[long_enough][:, SCORED < 16].mean(axis=1)
    assert familiarity.bits[0] == pytest.approx(np.quantile(per_byte, 0.99), rel=1e-3)
    assert (familiarity.share, familiarity.data) == (0.99, "2100 validation texts")


def test_without_labelled_texts_only_the_weights_are_published(tmp_path: Path) -> None:
    """And nothing is taken over from the step before, whose unit may mean something else by now."""
    publish(untrained(), tmp_path, manifest(1), of_files(SENTIMENT))
    bare = read(publish(untrained(1), tmp_path, manifest(2), None)).manifest
    assert (bare.sentiment, bare.heads, bare.feature_mean, bare.feature_scale) == (None, {}, None, None)
    assert bare.unit_histogram is None


def test_without_test_texts_nothing_is_said_of_them(tmp_path: Path) -> None:
    finished: list[tuple[int, int]] = []
    two = Sentiment(SENTIMENT.train, SENTIMENT.valid)
    where = publish(
        untrained(), tmp_path, manifest(1), of_files(two), on_progress=lambda *texts: finished.append(texts)
    )
    assert not {"test_accuracy", "test_accuracy_unit"} & read(where).manifest.heads["sentiment"].metrics.keys()
    assert sum(read for read, _ in finished) == len(two) == 160 + 80
    assert {total for _, total in finished} == {240}


def test_the_same_again_only_makes_it_latest(volume: Path) -> None:
    """Whoever published it may have died before that: all that is fitted comes out the same."""
    (volume / "LATEST").unlink()
    assert publish(untrained(), volume, manifest(7), of_files(SENTIMENT)) == latest(volume)


def test_another_model_is_not_published_as_the_same_step(volume: Path) -> None:
    with pytest.raises(CheckpointError, match="exists already"):
        publish(untrained(1), volume, manifest(7), of_files(SENTIMENT))


def test_the_model_itself_is_left_as_it_was(tmp_path: Path) -> None:
    model, fresh = untrained(), untrained()
    publish(model, tmp_path, manifest(1), of_files(Sentiment(SENTIMENT.train, SENTIMENT.valid)))
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), fresh.parameters(), strict=True))


# ---- snapshots of a run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("corpus")
    source = directory / "reviews.txt"
    source.write_text("".join(f"Review {n}: {'good' if n % 2 else 'bad'}.\n" for n in range(200)))
    build_corpus([source], directory / "built", 4)
    return directory / "built"


@pytest.fixture
def run(corpus: Path, tmp_path: Path) -> RunOnDisk:
    directory = tmp_path / "run"
    directory.mkdir()
    sha256 = hashlib.sha256((corpus / MANIFEST).read_bytes()).hexdigest()
    options = Options(str(corpus), units=UNITS, embedding_size=8, lanes=2, window=8, validation_bytes=101, device="cpu")
    options = replace(options, corpus_sha256=sha256)
    options.write(directory)
    return RunOnDisk(directory, options)


def test_the_newest_snapshot_is_published(run: RunOnDisk, tmp_path: Path) -> None:
    run.save(9, (9, 3.25))
    run.save(10, (10, 3.0))
    where = publish_run(run.directory, tmp_path / "volume", evaluation=SENTIMENT, notes="of a run")
    published = read(where)
    assert where == latest(tmp_path / "volume") == tmp_path / "volume" / f"reviews-mlstm-{UNITS}" / "step-10"
    assert (published.manifest.bytes_seen, published.manifest.bits_per_byte) == (100, 3.0)
    assert published.manifest.notes == "of a run"
    assert "sentiment" in published.manifest.heads
    for name, tensor in untrained(10).state_dict().items():
        assert torch.equal(published.model.state_dict()[name], tensor.bfloat16().float()), name


def test_an_earlier_snapshot_by_another_name(run: RunOnDisk, tmp_path: Path) -> None:
    early = run.save(9, (9, 3.25))
    run.save(10, (10, 3.0))
    assert publish_run(run.directory, tmp_path / "volume", snapshot=early, name="early").name == "step-9"
    assert latest(tmp_path / "volume").parent.name == "early"


def test_an_earlier_snapshot_replaces_a_later_only_on_purpose(run: RunOnDisk, tmp_path: Path) -> None:
    early = run.save(9, (9, 3.25))
    run.save(10, (10, 3.0))
    publish_run(run.directory, tmp_path / "volume")
    texts_read: list[tuple[int, int]] = []
    with pytest.raises(CheckpointError, match="--rollback"):
        publish_run(
            run.directory,
            tmp_path / "volume",
            snapshot=early,
            evaluation=SENTIMENT,
            on_progress=lambda *texts: texts_read.append(texts),
        )
    assert texts_read == [], "that could have been said before the texts were read"
    publish_run(run.directory, tmp_path / "volume", snapshot=early, rollback=True)
    assert latest(tmp_path / "volume").name == "step-9"


@pytest.mark.parametrize("validation", [None, (9, 1.0)], ids=["never validated", "validated one step before"])
def test_what_was_not_validated_is_measured(
    run: RunOnDisk, corpus: Path, tmp_path: Path, validation: tuple[int, float] | None
) -> None:
    run.save(10, validation)
    where = publish_run(run.directory, tmp_path / "volume")
    built = Corpus(corpus)
    text = torch.from_numpy(built.read(built.validation)[:101].astype(np.int64))
    model, nats = untrained(10), 0.0
    with torch.no_grad():
        weights = model.cell.weights(model.embedding)
        for begin in (0, 50):  # two lanes
            state = model.zero_state(1)
            for at in range(begin, begin + 50):
                state = step("mlstm", weights, text[at : at + 1], state)
                logits = state.hidden @ model.output_w + model.output_b
                nats -= float(torch.log_softmax(logits[0], dim=0)[text[at + 1]])
    assert read(where).manifest.bits_per_byte == pytest.approx(nats / 100 / math.log(2), rel=2e-3)


def test_without_the_runs_corpus_the_last_validation_counts(run: RunOnDisk, tmp_path: Path) -> None:
    run.save(10, (9, 3.25))
    replace(run.options, corpus=str(tmp_path / "moved")).write(run.directory)
    assert read(publish_run(run.directory, tmp_path / "one")).manifest.bits_per_byte == 3.25
    replace(run.options, corpus_sha256="of another").write(run.directory)
    assert read(publish_run(run.directory, tmp_path / "two")).manifest.bits_per_byte == 3.25
    run.save(11)
    assert read(publish_run(run.directory, tmp_path / "three")).manifest.bits_per_byte is None


def test_what_cannot_be_published_is_named(run: RunOnDisk, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    with pytest.raises(TrainingError, match="holds no run"):
        publish_run(tmp_path / "nowhere", volume)
    with pytest.raises(TrainingError, match="no snapshot yet"):
        publish_run(run.directory, volume)
    run.save(10)
    with pytest.raises(SnapshotError, match=r"step-3 does not exist; .* now: step-10"):
        publish_run(run.directory, volume, snapshot=run.snapshots / "step-3")
    with pytest.raises(TextsError, match=r"holds no sst_binary_train\.csv"):
        publish_run(run.directory, volume, evaluation=tmp_path)
    with pytest.raises(CheckpointError, match="name 'Not A Name'"):
        publish_run(run.directory, volume, name="Not A Name")
    (run.snapshots / "step-10" / "tensors.safetensors").write_bytes(b"damaged")
    with pytest.raises(SnapshotError, match="damaged"):
        publish_run(run.directory, volume)
    assert not volume.exists()


# ---- real processes

SAVE = """
    import sys
    from pathlib import Path
    import torch
    from tests.support.snapshots import RunOnDisk
    from trainer.run.options import Options
    from trainer.run.snapshot import prune

    torch.set_num_threads(1)
    run = RunOnDisk(Path(sys.argv[1]), Options.read(Path(sys.argv[1])))
    for step in range(1, 1_000_000):
        run.save(step, (step, 8.0))
        prune(run.snapshots, keep=1)
"""

KILL = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    from model.checkpoints.checkpoint import read
    from model.checkpoints.volumes import latest
    from tests.support.snapshots import RunOnDisk
    from trainer.publishing.publish import publish_run
    from trainer.run.options import Options

    torch.set_num_threads(1)
    directory, volume, evaluation = map(Path, sys.argv[1:])
    run, draw = RunOnDisk(directory, Options.read(directory)), random.Random(0)
    for step in range(1, 14):
        run.save(step, (step, 8.0))
        if step > 1:
            child = os.fork()
            if child == 0:
                publish_run(directory, volume, evaluation=evaluation)
                os._exit(0)
            time.sleep(draw.uniform(0.0, seconds))
            os.kill(child, signal.SIGKILL)
            killed = os.waitpid(child, 0)[1] == signal.SIGKILL
            assert latest(volume) in (before, before.with_name(f"step-{step}"))
            read(latest(volume))
            print("killed" if killed else "through", *[path.suffix for path in before.parent.iterdir()])
        began = time.monotonic()
        before = publish_run(directory, volume, evaluation=evaluation)  # the same step: begun, whole or served already
        seconds = time.monotonic() - began
        assert before == latest(volume) and before.name == f"step-{step}"
        assert not list(volume.rglob("*.partial"))
"""

THRICE = """
    import os, sys
    from pathlib import Path
    import sklearn.linear_model  # once, before the fork
    import torch
    from trainer.publishing.publish import publish_run

    torch.set_num_threads(1)
    children = []
    for _ in range(3):
        children.append(os.fork())
        if children[-1] == 0:
            publish_run(Path(sys.argv[1]), Path(sys.argv[2]), evaluation=Path(sys.argv[3]))
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
"""


def python(script: str, *arguments: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_a_run_that_goes_on_saving_and_deleting_is_published(run: RunOnDisk, tmp_path: Path) -> None:
    saving = python(SAVE, run.directory)
    try:
        wait_until(lambda: snapshots(run.snapshots), what="a snapshot")
        published = [publish_run(run.directory, tmp_path / "volume", name=f"take-{take}") for take in range(60)]
        assert saving.poll() is None
    finally:
        saving.kill()
        saving.communicate()
    steps = [read(where).manifest.step for where in published]
    assert steps == sorted(steps)
    assert len(set(steps)) > 10, "nothing was saved meanwhile"


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """SENTIMENT as a directory of files."""
    directory = tmp_path / "labelled"
    directory.mkdir()
    for name, part in vars(SENTIMENT).items():
        rows = "".join(f"{label},{text}\n" for text, label in zip(part.texts, part.labels, strict=True))
        (directory / f"{name}.csv").write_text("label,text\n" + rows)
    return directory


@pytest.mark.slow
def test_kill_9_while_publishing_keeps_what_was_published(run: RunOnDisk, evaluation: Path, tmp_path: Path) -> None:
    with python(KILL, run.directory, tmp_path / "volume", evaluation) as killing:
        reported = killing.communicate()[0].splitlines()
    assert killing.returncode == 0, reported
    assert sum(line.startswith("killed") for line in reported) >= 6, reported


@pytest.mark.slow
def test_processes_that_publish_the_same_snapshot_agree(run: RunOnDisk, evaluation: Path, tmp_path: Path) -> None:
    run.save(1, (1, 8.0))
    with python(THRICE, run.directory, tmp_path / "volume", evaluation) as publishing:
        publishing.communicate()
    assert publishing.returncode == 0
    assert read(latest(tmp_path / "volume")).manifest.step == 1


@pytest.mark.parametrize(
    ("of_run", "gpus", "expected"),
    [
        *[("auto", 0, "cpu"), ("cuda:3", 0, "cpu"), ("cpu", 4, "cpu")],
        *[("auto", 4, "cuda"), ("cuda", 4, "cuda"), ("cuda:3", 4, "cuda:3"), ("cuda:3", 1, "cuda")],
    ],
)
def test_the_gpu_of_a_run_reads_for_its_heads(
    monkeypatch: pytest.MonkeyPatch, of_run: str, gpus: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert _reading_device(of_run) == expected
