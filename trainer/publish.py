"""From a model to a published checkpoint: find its sentiment unit, calibrate it, fit the head `sentiment`, publish."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model import checkpoint
from model.checkpoint import Manifest
from model.folded import FoldedModel
from model.heads import accuracy, calibrate, find_unit, fit_l1, fit_threshold
from model.language_model import LanguageModel
from model.reading import read_features
from model.text import prepare
from trainer.labelled import Labelled

OnProgress = Callable[[int], None]

_LABELS = ["negative", "positive"]


@dataclass(frozen=True)
class Sentiment:
    """Labelled texts, labels "0" (negative) and "1" (positive)."""

    train: Labelled
    valid: Labelled
    test: Labelled | None = None


def publish(
    model: LanguageModel,
    volume: Path,
    name: str,
    step: int,
    bytes_seen: int,
    bits_per_byte: float | None,
    sentiment: Sentiment | None,
    notes: str = "",
    on_progress: OnProgress | None = None,
) -> Path:
    """Publish `model`; with labelled texts also its sentiment unit, calibration, feature statistics and default head.

    The paper's protocol: C is chosen on `valid`; `test` is looked at once, by the fitted head and threshold.
    """
    manifest = Manifest(name, step, model.architecture, bytes_seen, bits_per_byte, sha256={}, notes=notes)
    if sentiment is not None:
        rounded = copy.deepcopy(model).bfloat16().float()  # the head must fit what a worker will load
        manifest = _with_sentiment(manifest, FoldedModel(rounded), sentiment, on_progress)
    return checkpoint.publish(volume, model, manifest, torch.bfloat16)


def _with_sentiment(
    manifest: Manifest, model: FoldedModel, sentiment: Sentiment, on_progress: OnProgress | None
) -> Manifest:
    train_x, train_y = _featurized(model, sentiment.train, on_progress)
    valid_x, valid_y = _featurized(model, sentiment.valid, on_progress)
    unit = find_unit(train_x, train_y)
    calibration = calibrate(train_x[:, unit], train_y, unit)
    threshold, polarity, _ = fit_threshold(train_x[:, unit], train_y)
    head = fit_l1(train_x, train_y, valid_x, valid_y, _LABELS)
    if sentiment.test is not None:
        test_x, test_y = _featurized(model, sentiment.test, on_progress)
        head.metrics["test_accuracy"] = accuracy(head, test_x, test_y)
        predicted = (polarity * (test_x[:, unit] - threshold)) > 0
        head.metrics["test_accuracy_unit"] = float((predicted == (test_y == 1)).mean())
    return Manifest(
        **{
            **vars(manifest),
            "sentiment": calibration,
            "heads": {"sentiment": head},
            "feature_mean": train_x.mean(axis=0).tolist(),
            "feature_scale": train_x.std(axis=0).tolist(),
        }
    )


def _featurized(
    model: FoldedModel, labelled: Labelled, on_progress: OnProgress | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    labels = labelled.binary()
    features = read_features(model, [prepare(text) for text in labelled.texts], on_progress=on_progress)
    return features, labels
