"""What a fine-tuning publishes: the weights of its best epoch, its read-out as a head, its unit calibrated anew."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import volumes
from model.checkpoints.manifest import MAX_MANIFEST_BYTES, Manifest
from model.heads.classifier import Head, accuracy
from model.heads.histogram import histogram
from model.heads.standardization import mean_and_deviation
from model.heads.unit import Calibration, calibrate
from model.network.objective import ReadOut
from texts.labelled import Labelled
from texts.preparation import prepare
from trainer.finetuning.finetune import Finetuning
from trainer.finetuning.start import MOST_READ
from trainer.run.options import TrainingError

# Names of two classes of sentiment, the negative one first: the sentiment unit can be calibrated by them.
_SENTIMENT = (["0", "1"], ["neg", "pos"], ["negative", "positive"])
_BYTES_A_WEIGHT = 16  # of JSON


def check_size(units: int, labels: int) -> None:
    """Raise TrainingError where the head would not fit a manifest; call it before a fine-tuning."""
    size = units * (labels if labels > 2 else 1) * _BYTES_A_WEIGHT
    if size > MAX_MANIFEST_BYTES // 2:
        raise TrainingError(
            f"a head of {labels} labels on {units} units takes {size:,} bytes of the manifest, "
            f"at most {MAX_MANIFEST_BYTES // 2:,}: use fewer labels or a model of fewer units"
        )


def publish_tuned(
    tuning: Finetuning, volume: Path, name: str, head_name: str, train: Labelled, valid: Labelled, test: Labelled | None
) -> tuple[Path, Head]:
    """Publish the best epoch, which `run` has ended with. The checkpoint's directory, and its head with its metrics.

    The labelled texts are those that it was trained and chosen on; `test` is used only here, and once.
    """
    model, options = tuning.best(), tuning.options
    scores = tuning.validate()
    folded = FoldedModel(copy.deepcopy(model).bfloat16().float(), str(tuning.device))  # what a worker will load
    head = _head(tuning.read_out, options.labels)
    parts = {"train": train.first(MOST_READ), "valid": valid} | ({} if test is None else {"test": test})
    features = {part: read_features(folded, [prepare(text) for text in of.texts]) for part, of in parts.items()}
    classes = {part: np.array([options.labels.index(label) for label in of.labels]) for part, of in parts.items()}
    metrics = {f"{part}_accuracy": accuracy(head, features[part], classes[part]) for part in parts}
    unit = _calibrated(tuning, features["train"], classes["train"])
    if unit is not None:
        values = {part: unit.positive(found) for part, found in features.items()}
        metrics |= {
            f"{part}_accuracy_unit": float((values[part] == (classes[part] == 1)).mean())
            for part in ("valid", "test")
            if part in parts
        }
    head = replace(head, metrics=metrics)
    mean, deviation = mean_and_deviation(features["train"])
    manifest = Manifest(
        name=name,
        step=tuning.progress.step,
        architecture=tuning.start.architecture,
        bytes_seen=tuning.start.bytes_seen + tuning.progress.bytes_seen,
        bits_per_byte=scores.bits_per_byte,
        sha256={},
        sentiment=unit,
        unit_histogram=None
        if unit is None
        else histogram(features["valid"][:, unit.unit], classes["valid"], f"{len(valid.texts)} validation texts"),
        heads={head_name: head},
        feature_mean=mean.tolist(),
        feature_scale=deviation.tolist(),
        notes=f"Fine-tuned from {tuning.start.name}/step-{tuning.start.step}.",
    )
    return volumes.publish(volume, model, manifest), head


def _calibrated(tuning: Finetuning, features: NDArray[np.float32], classes: NDArray[np.int64]) -> Calibration | None:
    """The sentiment unit by the texts of the task; None where they are not sentiment, or where there was no unit."""
    if tuning.start.sentiment is None or tuning.options.labels not in _SENTIMENT:
        return None
    unit = tuning.start.sentiment.unit
    return calibrate(features[:, unit], classes, unit)


def _head(read_out: ReadOut, labels: list[str]) -> Head:
    """Of two labels the logit of the second over the first. Six digits are more than bfloat16 features deserve."""
    weights, bias = read_out.weight.detach().cpu().numpy(), read_out.bias.detach().cpu().numpy()
    if len(labels) == 2:
        weights, bias = weights[:, 1:] - weights[:, :1], bias[1:] - bias[:1]
    rows = {unit: [float(f"{value:.6g}") for value in row] for unit, row in enumerate(weights)}
    return Head(labels=list(labels), weights=rows, bias=[float(value) for value in bias])
