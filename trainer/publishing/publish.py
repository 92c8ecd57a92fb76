"""From a run to a served model: `publish_run` takes a snapshot, finds the sentiment unit, fits the head, publishes.

It only reads the run, which may continue training in this or other processes.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.folded import FoldedModel
from engine.reading import read_texts
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.heads.classifier import SENTIMENT_HEAD, SENTIMENT_LABELS, accuracy, fit_l1
from model.heads.pooling import Pooling, pool
from model.heads.standardization import mean_and_deviation
from model.heads.unit import calibrate, find_unit
from model.network.language_model import LanguageModel
from model.texts.labelled import Labelled, Sentiment, read_sentiment
from model.texts.preparation import prepare
from trainer.corpus.corpus import Corpus, CorpusError
from trainer.run.options import Options, TrainingError
from trainer.run.snapshot import Progress, SnapshotError, read_model, read_progress, snapshots
from trainer.run.validation import held_out_text

OnProgress = Callable[[int], None]  # gets the number of texts just read

_POOLINGS: tuple[Pooling, ...] = ("cell", "mean")  # the first of equally good ones is taken


def publish_run(
    run_directory: Path,
    volume: Path,
    *,
    snapshot: Path | None = None,
    evaluation: Path | Sentiment | None = None,
    name: str | None = None,
    notes: str = "",
    rollback: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Publish a snapshot of the run in the checkpoint volume `volume` and return the checkpoint's directory.

    snapshot: by default the newest. evaluation: labelled texts, or the directory that holds them; None publishes
    without sentiment unit and head. name: by default reviews-CELL-UNITS. rollback: LATEST may go back to an earlier
    step. on_progress: gets the number of labelled texts just read.

    Raises TrainingError or SnapshotError if there is nothing to publish, LabelledError or HeadError if the labelled
    texts cannot be used, CheckpointError if the volume refuses it.
    """
    options = Options.read(run_directory)
    name = name or f"reviews-{options.cell}-{options.units}"
    sentiment = read_sentiment(evaluation) if isinstance(evaluation, Path) else evaluation
    if snapshot is None:
        model, progress = _newest(run_directory / "snapshots", options)
    else:
        model, progress = _read(snapshot, options)
    volumes.check_place(volume, name, progress.step, rollback)
    device = "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"
    manifest = Manifest(
        name=name,
        step=progress.step,
        architecture=options.architecture,
        bytes_seen=options.start_bytes + progress.bytes_seen,
        bits_per_byte=_bits_per_byte(model, progress, options, device),
        sha256={},
        notes=notes,
    )
    return publish(model, volume, manifest, sentiment, rollback, device, on_progress, options.label_unit)


def publish(
    model: LanguageModel,
    volume: Path,
    manifest: Manifest,
    sentiment: Sentiment | None,
    rollback: bool = False,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
    unit: int | None = None,
) -> Path:
    """Publish `model`; with labelled texts also its sentiment unit, calibration, feature statistics and default head.

    As in the paper C is chosen on `sentiment.valid`, and so is what the head reads: the final cell as there, or the
    mean of the hidden vector over the text. `.test` is used once, for head and calibrated unit.
    device: that reads the labelled texts. unit: the sentiment unit, where a run has trained one for it; None finds it.
    """
    if sentiment is not None:
        rounded = copy.deepcopy(model).bfloat16().float()  # the head must fit what a worker will load
        manifest = _with_sentiment(manifest, FoldedModel(rounded, device), sentiment, on_progress, unit)
    return volumes.publish(volume, model, manifest, torch.bfloat16, rollback)


def _newest(directory: Path, options: Options) -> tuple[LanguageModel, Progress]:
    while True:
        found = snapshots(directory)
        if not found:
            raise TrainingError(f"{directory} holds no snapshot yet: publish when the run has saved one")
        try:
            return _read(found[-1], options)
        except SnapshotError:
            if found[-1:] == snapshots(directory)[-1:]:
                raise  # otherwise the run has saved a newer one and deleted this one


def _read(snapshot: Path, options: Options) -> tuple[LanguageModel, Progress]:
    if not snapshot.is_dir():
        there = ", ".join(path.name for path in snapshots(snapshot.parent)) or "none"
        raise SnapshotError(f"{snapshot} does not exist; a run keeps its newest snapshots and its best, now: {there}")
    progress, _, _ = read_progress(snapshot)
    return read_model(snapshot, options.architecture), progress


def _bits_per_byte(model: LanguageModel, progress: Progress, options: Options, device: str) -> float | None:
    """On held-out text: as the run found at this step, else measured now, else, without its corpus, as found last."""
    found = progress.validation_bits_per_byte
    if found is not None and progress.validation_step == progress.step:
        return found
    try:
        corpus = Corpus(Path(options.corpus))
        if corpus.sha256 != options.corpus_sha256:  # the run may have trained on the held-out text of this corpus
            return found
        text = held_out_text(corpus, options, range(options.lanes))
    except CorpusError:
        return found
    return _measured(FoldedModel(model, device), text)


@torch.inference_mode()
def _measured(model: FoldedModel, text: Tensor) -> float:
    """Bits per byte. text: (steps + 1, rows)."""
    steps, rows = len(text) - 1, text.shape[1]
    state, nats = model.zero_state(rows), torch.zeros((), dtype=torch.float64, device=model.device)
    for byte, target in pairwise(text.to(model.device)):
        state = model.step(byte, state)
        nats += torch.nn.functional.cross_entropy(model.logits(state.hidden), target)
    return float(nats) / steps / math.log(2)


def _with_sentiment(
    manifest: Manifest, model: FoldedModel, sentiment: Sentiment, on_progress: OnProgress | None, unit: int | None
) -> Manifest:
    train, valid = (_read_labelled(model, part, on_progress) for part in (sentiment.train, sentiment.valid))
    if unit is None:
        unit = find_unit(train.cell, train.labels)
    calibration = calibrate(train.cell[:, unit], train.labels, unit)
    heads = [
        replace(
            fit_l1(train.features(pooling), train.labels, valid.features(pooling), valid.labels, SENTIMENT_LABELS),
            pooling=pooling,
        )
        for pooling in _POOLINGS
    ]
    head = max(heads, key=lambda head: head.metrics["valid_accuracy"])
    if sentiment.test is not None:
        test = _read_labelled(model, sentiment.test, on_progress)
        positive = calibration.polarity * (test.cell[:, unit] - calibration.center) > 0
        of_test = {
            "test_accuracy": accuracy(head, test.features(head.pooling), test.labels),
            "test_accuracy_unit": float((positive == (test.labels == 1)).mean()),
        }
        head = replace(head, metrics=head.metrics | of_test)
    mean, deviation = mean_and_deviation(train.cell)
    return replace(
        manifest,
        sentiment=calibration,
        heads={SENTIMENT_HEAD: head},
        feature_mean=mean.tolist(),
        feature_scale=deviation.tolist(),
    )


@dataclass(frozen=True)
class _Read:
    """Labelled texts that were read. cell, mean: (texts, units); labels: (texts,) 0 or 1."""

    cell: NDArray[np.float32]
    mean: NDArray[np.float32]
    labels: NDArray[np.int64]

    def features(self, pooling: Pooling) -> NDArray[np.float32]:
        return pool(self.cell, self.mean, pooling)


def _read_labelled(model: FoldedModel, labelled: Labelled, on_progress: OnProgress | None) -> _Read:
    texts = [prepare(text) for text in labelled.texts]
    return _Read(*read_texts(model, texts, on_progress=on_progress), labelled.binary())
