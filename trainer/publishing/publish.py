"""From a run to a served model: `publish_run` takes a snapshot, finds the sentiment unit, fits heads, publishes.

It only reads the run, which may continue training in this or other processes.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.folded import FoldedModel
from engine.reading import SCORED
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.heads.familiarity import find_limits
from model.heads.histogram import histogram
from model.heads.standardization import mean_and_deviation
from model.heads.unit import calibrate, find_unit
from model.network.language_model import LanguageModel
from texts.faults import Faults
from texts.sets import Sentiment, read_sentiment
from trainer.corpus.corpus import Corpus, CorpusError
from trainer.publishing.heads import HeadSpec, Read, fit, judged
from trainer.publishing.material import Material, of_corpus, of_files
from trainer.run.options import Options, TrainingError
from trainer.run.snapshot import Progress, SnapshotError, read_model, read_progress, snapshots
from trainer.run.validation import held_out_text

OnProgress = Callable[[int, int], None]  # gets the number of texts just read, and of all

REVIEWS = 40_000  # that heads are fitted to


def publish_run(
    run_directory: Path,
    volume: Path,
    *,
    snapshot: Path | None = None,
    evaluation: Path | Sentiment | None = None,
    heads: Sequence[HeadSpec] = (),
    reviews: int = REVIEWS,
    name: str | None = None,
    notes: str = "",
    rollback: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Publish a snapshot of the run in the checkpoint volume `volume` and return the checkpoint's directory.

    snapshot: by default the newest. evaluation: labelled texts, or the directory that holds them. heads: to be fitted
    to at most `reviews` labelled reviews of the run's corpus, with `evaluation`; if empty, the head `sentiment` is
    fitted to that alone. Without either there is neither sentiment unit nor head. name: by default reviews-CELL-UNITS.
    rollback: LATEST may go back to an earlier step. on_progress: gets the number of labelled texts just read, and
    of all.

    Raises TrainingError or SnapshotError if there is nothing to publish, TextsError, HeadError or CorpusError if the
    labelled texts cannot be used, CheckpointError if the volume refuses it.
    """
    options = Options.read(run_directory)
    name = name or f"reviews-{options.cell}-{options.units}"
    files = read_sentiment(evaluation, Faults()) if isinstance(evaluation, Path) else evaluation
    material = None if files is None else of_files(files)
    if heads:
        corpus = Corpus(Path(options.corpus))
        if corpus.sha256 != options.corpus_sha256:
            raise TrainingError(f"{options.corpus} was built anew since: the run may have trained on what it holds out")
        material = of_corpus(corpus, heads, reviews, options.seed, files)
    if snapshot is None:
        model, progress = _newest(run_directory / "snapshots", options)
    else:
        model, progress = _read(snapshot, options)
    volumes.check_place(volume, name, progress.step, rollback)
    device = _reading_device(options.device)
    manifest = Manifest(
        name=name,
        step=progress.step,
        architecture=options.architecture,
        bytes_seen=options.start_bytes + progress.bytes_seen,
        bits_per_byte=_bits_per_byte(model, progress, options, device),
        sha256={},
        notes=notes,
    )
    return publish(model, volume, manifest, material, rollback, device, on_progress, options.label_unit)


def publish(
    model: LanguageModel,
    volume: Path,
    manifest: Manifest,
    material: Material | None,
    rollback: bool = False,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
    unit: int | None = None,
) -> Path:
    """Publish `model`; with labelled texts also its sentiment unit with its histogram, feature statistics, heads.

    device: that reads the labelled texts. unit: the sentiment unit, where a run has trained one for it; None finds it.
    """
    if material is not None:
        rounded = copy.deepcopy(model).bfloat16().float()  # the head must fit what a worker will load
        manifest = _with_heads(manifest, FoldedModel(rounded, device), material, on_progress, unit)
    return volumes.publish(volume, model, manifest, torch.bfloat16, rollback)


def _reading_device(of_run: str) -> str:
    """What reads the labelled texts: the run's GPU, or where this machine lacks it the first, or the CPU."""
    if of_run == "cpu" or not torch.cuda.is_available():
        return "cpu"
    index = None if of_run == "auto" else torch.device(of_run).index
    return "cuda" if index is None or index >= torch.cuda.device_count() else of_run


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


def _with_heads(
    manifest: Manifest, model: FoldedModel, material: Material, on_progress: OnProgress | None, unit: int | None
) -> Manifest:
    def advance(texts: int) -> None:
        if on_progress is not None:
            on_progress(texts, len(material))

    train, valid = Read.by(model, material.train, advance), Read.by(model, material.valid, advance, scored=True)
    rows = train.labelled(material.sentiment)
    if unit is None:
        unit = find_unit(rows.cell, rows.labels)
    calibration, held_out = calibrate(rows.cell[:, unit], rows.labels, unit), valid.labelled(material.sentiment)
    heads = {spec.name: fit(spec, train, valid, material.calibrated_on) for spec in material.specs}
    if material.test is not None:
        test = Read.by(model, material.test, advance)
        heads = {spec.name: judged(heads[spec.name], spec, test, calibration) for spec in material.specs}
    mean, deviation = mean_and_deviation(train.cell)
    lengths = np.array(list(map(len, material.valid.texts)))
    return replace(
        manifest,
        sentiment=calibration,
        unit_histogram=histogram(held_out.cell[:, unit], held_out.labels, material.calibrated_on),
        heads=heads,
        familiarity=find_limits(valid.scores, SCORED, lengths, material.calibrated_on),
        feature_mean=mean.tolist(),
        feature_scale=deviation.tolist(),
    )
