"""The model for scikit-learn: `NeuronFeatures`, a step of a pipeline, and `NeuronClassifier`, a classifier of texts.

    make_pipeline(NeuronFeatures(), StandardScaler(), LogisticRegression()).fit(texts, labels)
    NeuronClassifier().fit(texts, labels).predict(more)

Importing this module needs scikit-learn; `sentiment_neuron` imports it when one of them is first used.
"""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import checkpoint, volumes
from model.checkpoints.checkpoint import Checkpoint, CheckpointError
from model.checkpoints.manifest import WEIGHTS
from model.heads.checks import HeadError
from model.heads.classifier import head_probabilities
from model.heads.cross_validation import accuracy_interval, fit_cv
from model.heads.pooling import Pooling
from sentiment_neuron.errors import LoadError
from sentiment_neuron.estimator_inputs import checked, checked_with, of_texts
from texts.preparation import prepare


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
        checked(texts)
        return self._load()

    def fit_transform(self, texts: Iterable[str], y: object = None) -> NDArray[np.float32]:  # noqa: ARG002 - as above
        """Both, of texts that may come once only, as from a generator."""
        found = checked(texts)
        return self._load().transform(found)

    def _load(self) -> "NeuronFeatures":
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling is {self.pooling!r}, not one of {', '.join(get_args(Pooling))}")
        if not isinstance(self.batch_rows, int) or self.batch_rows < 1:
            raise ValueError(f"batch_rows is {self.batch_rows!r}, not a whole number of 1 or more")
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
        found = checked(texts)
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
        tags = of_texts(super().__sklearn_tags__())
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


class NeuronClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of texts: L1 logistic regression on the model's features, C by cross-validation (`neuron head fit`).

    checkpoint, pooling, batch_rows: as of `NeuronFeatures`. seed: of the folds. After `fit`, `classes_` has the labels
    in their order, `accuracy_` an honest estimate, None where there are too few texts for one, and
    `accuracy_interval_` where the true one lies.
    """

    def __init__(
        self,
        checkpoint: str | PathLike[str] | None = None,
        pooling: Pooling = "mean",
        batch_rows: int = 128,
        seed: int = 0,
    ) -> None:
        self.checkpoint = checkpoint
        self.pooling = pooling
        self.batch_rows = batch_rows
        self.seed = seed

    def fit(self, texts: Iterable[str], y: Iterable[object]) -> "NeuronClassifier":
        """y: a label of every text, of two kinds or more. Raises as `NeuronFeatures.fit`."""
        found, labels = checked_with(texts, y)
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"there is one class, {self.classes_[0]}: at least two are needed")
        self.features_ = NeuronFeatures(self.checkpoint, self.pooling, self.batch_rows)
        features = self.features_.fit_transform(found)
        try:
            fitted = fit_cv(features, numbers.astype(np.int64), len(self.classes_), self.seed)
        except HeadError as error:
            raise ValueError(str(error)) from error
        self.head_ = fitted.head([str(number) for number in range(len(self.classes_))], self.pooling)
        self.accuracy_ = fitted.accuracy
        rows = len(found)
        self.accuracy_interval_ = None if fitted.accuracy is None else accuracy_interval(fitted.accuracy, rows)
        return self

    def predict_proba(self, texts: Iterable[str]) -> NDArray[np.float64]:
        """(texts, classes), in the order of `classes_`."""
        check_is_fitted(self)
        return head_probabilities(self.head_, self.features_.transform(texts))

    def predict(self, texts: Iterable[str]) -> NDArray[Any]:
        """The likeliest label of every text."""
        check_is_fitted(self)
        found: NDArray[Any] = self.classes_[self.predict_proba(texts).argmax(axis=1)]
        return found

    def __sklearn_tags__(self) -> Tags:
        return of_texts(super().__sklearn_tags__())


def _read(directory: str) -> Checkpoint:
    try:
        return checkpoint.read(Path(directory))
    except CheckpointError as error:
        raise LoadError(str(error)) from error


def _folded(loaded: Checkpoint) -> FoldedModel:
    return FoldedModel(loaded.model, "cuda" if torch.cuda.is_available() else "cpu")
