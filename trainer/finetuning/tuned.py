"""What a fine-tuning publishes: the weights of its best epoch, its read-out as a head, its unit calibrated anew."""

import copy
from dataclasses import replace
from pathlib import Path

from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import volumes
from model.checkpoints.manifest import MAX_MANIFEST_BYTES, Manifest
from model.heads.classifier import Head, accuracy
from model.heads.histogram import histogram
from model.heads.standardization import mean_and_deviation
from model.heads.unit import calibrate
from model.network.objective import ReadOut
from texts.labelled import Labelled
from trainer.finetuning.finetune import MOST_READ, Finetuning
from trainer.finetuning.task import Task
from trainer.run.options import TrainingError

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
    tuning: Finetuning, volume: Path, name: str, head_name: str, test: Labelled | None
) -> tuple[Path, Head]:
    """Publish the best epoch, which `run` has ended with. The checkpoint's directory, and its head with its metrics.

    The labelled texts are those that it was trained and chosen on; `test` is used only here, and once.
    """
    model, options = tuning.best(), tuning.options
    scores = tuning.validate()
    folded = FoldedModel(copy.deepcopy(model).bfloat16().float(), str(tuning.device))  # what a worker will load
    head = _head(tuning.read_out, options.labels)
    parts = {"train": tuning.train.part(MOST_READ), "valid": tuning.valid}
    parts |= {} if test is None else {"test": Task.of(test, options.labels)}
    features = {part: read_features(folded, of.texts) for part, of in parts.items()}
    classes = {part: of.classes for part, of in parts.items()}
    metrics = {f"{part}_accuracy": accuracy(head, features[part], classes[part]) for part in parts}
    unit, counts = None, None
    if tuning.of_sentiment:
        number = tuning.read_out.unit
        unit = calibrate(features["train"][:, number], classes["train"], number)
        of_valid = f"{len(classes['valid'])} validation texts"
        counts = histogram(features["valid"][:, number], classes["valid"], of_valid)
        values = {part: unit.positive(found) for part, found in features.items()}
        metrics |= {
            f"{part}_accuracy_unit": float((values[part] == (classes[part] == 1)).mean())
            for part in ("valid", "test")
            if part in parts
        }
    head = replace(head, metrics=metrics)
    mean, deviation = mean_and_deviation(features["train"])
    began = f"{tuning.start.name}/step-{tuning.start.step}"
    manifest = Manifest(
        name=name,
        step=tuning.progress.step,
        architecture=tuning.start.architecture,
        bytes_seen=tuning.start.bytes_seen + tuning.progress.bytes_seen,
        bits_per_byte=scores.bits_per_byte,
        sha256={},
        sentiment=unit,
        unit_histogram=counts,
        heads={head_name: head},
        feature_mean=mean.tolist(),
        feature_scale=deviation.tolist(),
        notes=f"Fine-tuned from {began}." if tuning.epoch else f"As {began}, with a head for a task.",
    )
    return volumes.publish(volume, model, manifest), head


def _head(read_out: ReadOut, labels: list[str]) -> Head:
    """Of two labels the logit of the second over the first. Six digits are more than bfloat16 features deserve."""
    weights, bias = read_out.weight.detach().cpu().numpy(), read_out.bias.detach().cpu().numpy()
    if len(labels) == 2:
        weights, bias = weights[:, 1:] - weights[:, :1], bias[1:] - bias[:1]
    rows = {unit: [float(f"{value:.6g}") for value in row] for unit, row in enumerate(weights)}
    return Head(labels=list(labels), weights=rows, bias=[float(value) for value in bias])
