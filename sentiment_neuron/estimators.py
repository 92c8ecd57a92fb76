"""`NeuronFeatures`: texts to the model's features as a step of a scikit-learn pipeline.

    make_pipeline(NeuronFeatures(), StandardScaler(), LogisticRegression()).fit(texts, labels)

Importing this module needs scikit-learn; `sentiment_neuron` imports it when `NeuronFeatures` is first used.
"""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import checkpoint, volumes
from model.checkpoints.checkpoint import Checkpoint, CheckpointError
from model.checkpoints.manifest import WEIGHTS
from model.heads.pooling import Pooling
from model.texts.preparation import prepare
from sentiment_neuron.errors import LoadError


class NeuronFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A feature vector of every text, (texts, units) float32.

    checkpoint: a checkpoint's directory or a volume, whose `LATEST` is taken; None is the shipped model. pooling: the
    final "cell", its "tanh", or the "mean" of the hidden state over the text. batch_rows: texts read side by side. A
    stored copy holds no weights: it reads the checkpoint again, and refuses weights that are not those of `fit`.
    """

    def __init__(
        self, checkpoint: str | PathLike[str] | None = None, pooling: Pooling = "cell", batch_rows: int = 128
    ) -> None:
        self.checkpoint = checkpoint
        self.pooling = pooling
        self.batch_rows = batch_rows

    def fit(self, texts: Iterable[str], y: object = None) -> "NeuronFeatures":  # noqa: ARG002 - scikit-learn gives it
        """Load the checkpoint; nothing is learned from the texts. Raises LoadError, ValueError, TypeError."""
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling is {self.pooling!r}, not one of {', '.join(get_args(Pooling))}")
        if not isinstance(self.batch_rows, int) or self.batch_rows < 1:
            raise ValueError(f"batch_rows is {self.batch_rows!r}, not a whole number of 1 or more")
        _checked(texts)
        place = volumes.SHIPPED if self.checkpoint is None else Path(self.checkpoint)
        try:
            self.checkpoint_ = str(volumes.resolve(place).absolute())
        except CheckpointError as error:
            raise LoadError(str(error)) from error
        loaded = _read(self.checkpoint_)
        self.sha256_ = loaded.manifest.sha256[WEIGHTS]
        self.n_units_ = loaded.manifest.architecture.units
        self._model = _folded(loaded)
        return self

    def transform(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """texts: (texts,) -> (texts, units). Raises as `fit`, and sklearn.exceptions.NotFittedError."""
        check_is_fitted(self)
        found = _checked(texts)
        if not hasattr(self, "_model"):  # a stored copy
            self._model = _folded(self._again())
        return read_features(self._model, [prepare(text) for text in found], self.pooling, self.batch_rows)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:  # noqa: ARG002 - as above
        """`unit0`, `unit1`, ..."""
        check_is_fitted(self)
        return np.array([f"unit{unit}" for unit in range(self.n_units_)], dtype=object)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_model", None)
        return state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.requires_fit = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _again(self) -> Checkpoint:
        loaded = _read(self.checkpoint_)
        found = loaded.manifest.sha256[WEIGHTS]
        if found != self.sha256_:
            raise LoadError(
                f"{self.checkpoint_} holds weights with SHA-256 {found}, and {self.sha256_} were fitted: fit again"
            )
        return loaded


def _read(directory: str) -> Checkpoint:
    try:
        return checkpoint.read(Path(directory))
    except CheckpointError as error:
        raise LoadError(str(error)) from error


def _folded(loaded: Checkpoint) -> FoldedModel:
    return FoldedModel(loaded.model, "cuda" if torch.cuda.is_available() else "cpu")


def _checked(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str | bytes):
        raise TypeError("texts is one text: give a list of them")
    found = list(texts)
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"text {number} is {type(text).__name__}, not str: give a column of texts")
    if not found:
        raise ValueError("there are 0 texts, at least 1 is needed")
    return found
