"""Recurrent networks for scikit-learn, trained on your own labels: `RecurrentClassifier` and `RecurrentRegressor`.

    RecurrentClassifier().fit(texts, labels).predict(more)

Importing this module needs scikit-learn; `sentiment_neuron` imports it when one of them is first used.
"""

import copy
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags, check_random_state, column_or_1d, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from model.checkpoints.untrusted import MAX_NUMBER, is_finite
from recurrent import storage
from recurrent.classifier import Recurrent, fit, split
from recurrent.learning import DivergedError, Learner
from recurrent.options import OF_TRAINING, Cell, Initialization, Optimizer, Options, Pooling, Schedule, Tokens
from recurrent.storage import StorageError
from recurrent.targets import Answers, Kind, kind_of
from sentiment_neuron.epochs_bar import epochs_bar
from sentiment_neuron.errors import LoadError
from sentiment_neuron.estimator_inputs import checked, checked_with, labels_of, of_texts, plain

_OPTIONS = [field.name for field in fields(Options)]

ClassWeight = Mapping[Any, float] | Literal["balanced"] | None


class _Recurrent(BaseEstimator):  # type: ignore[misc]
    """tokens: words in lower case, or bytes. min_df, max_features: texts that a word must be in, words known at most.

    cell, embedding, units, layers, bidirectional, pooling: the network (recurrent/network.py). dropout: of what each
    layer reads. steepness: gates are σ(steepness * a). initialization: of recurrent matrices. optimizer,
    learning_rate (None: the optimizer's own), schedule, clip (of the gradient's norm; None: not), batch_size (None:
    16, of more than 10,000 texts 32): the training. epochs: at most (None: what makes 1,500 updates, but 3 to 50).
    validation_fraction of the texts are held out: the pass with their lowest loss is kept, and after patience passes
    without a lower one (None: a quarter of them, 3 at least) it stops. max_tokens: of a text that is learned from,
    for the sake of memory; a text to predict is always read whole. class_weight: factors of the losses by label, or
    "balanced"; of classifiers alone. random_state: with a number, a CPU fits the same network each time, unless
    another thread of the process fits too. device: "auto" takes CUDA where it is. verbose: show the progress of `fit`.

    After `fit`, `model_` holds the network and `history_` loss, validation loss and validation score of every pass.
    """

    _kinds: tuple[Kind, ...]

    def __init__(
        self,
        *,
        tokens: Tokens = Options.tokens,
        min_df: int = Options.min_df,
        max_features: int = Options.max_features,
        cell: Cell = Options.cell,
        embedding: int = Options.embedding,
        units: int = Options.units,
        layers: int = Options.layers,
        bidirectional: bool = Options.bidirectional,
        pooling: Pooling = Options.pooling,
        dropout: float = Options.dropout,
        steepness: float = Options.steepness,
        initialization: Initialization = Options.initialization,
        optimizer: Optimizer = Options.optimizer,
        learning_rate: float | None = Options.learning_rate,
        schedule: Schedule = Options.schedule,
        clip: float | None = Options.clip,
        epochs: int | None = Options.epochs,
        patience: int | None = Options.patience,
        validation_fraction: float = Options.validation_fraction,
        batch_size: int | None = Options.batch_size,
        max_tokens: int = Options.max_tokens,
        class_weight: ClassWeight = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.tokens = tokens
        self.min_df = min_df
        self.max_features = max_features
        self.cell = cell
        self.embedding = embedding
        self.units = units
        self.layers = layers
        self.bidirectional = bidirectional
        self.pooling = pooling
        self.dropout = dropout
        self.steepness = steepness
        self.initialization = initialization
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.clip = clip
        self.epochs = epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def save(self, directory: str | PathLike[str]) -> None:
        """Write the fitted network to a new directory, as safetensors and JSON.

        Raises FileExistsError, OSError, and ValueError for labels that JSON does not hold.
        """
        check_is_fitted(self)
        try:
            storage.write(Path(directory), self.model_)
        except StorageError as error:
            raise ValueError(str(error)) from error

    @classmethod
    def load(cls, directory: str | PathLike[str], device: str = "auto") -> Self:
        """What `save` or `neuron rnn fit` wrote, but for class_weight and random_state. Raises LoadError."""
        try:
            model = storage.read(Path(directory), device)
        except (StorageError, ValueError) as error:
            raise LoadError(str(error)) from error
        if model.kind not in cls._kinds:
            other, answer = ("Regressor", "number") if model.kind == "value" else ("Classifier", "label")
            raise LoadError(f"{directory} answers a {answer}: Recurrent{other}.load reads it")
        found = cls(**asdict(model.options), device=device)
        found._keep(model)
        return found

    def _options(self) -> Options:
        return Options(**{name: plain(getattr(self, name)) for name in _OPTIONS})

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31))

    def _fit(self, texts: list[str], kind: Kind, labels: list[Any], y: Answers, weights: Answers | None) -> None:
        options, seed = self._options(), self._seed()
        learned = len(split(kind, y, options.validation_fraction, seed)[0])
        with epochs_bar(self.verbose, options.epochs_for(learned), learned) as (advance, on_epoch):
            try:
                model = fit(options, kind, labels, texts, y, weights, seed, self.device, advance, on_epoch)
            except DivergedError as error:
                raise ValueError(str(error)) from error
        self._keep(model)

    def _partial_fit(
        self, texts: list[str], kind: Kind, labels: list[Any], y: Answers, weights: Answers | None
    ) -> None:
        options, model = self._options(), getattr(self, "model_", None)
        learner: Learner | None = getattr(self, "_learner", None)
        if model is None:
            model = Recurrent.new(options, kind, labels, texts, y, self._seed(), self.device)
        for name in _OPTIONS:
            now, was = getattr(options, name), getattr(model.options, name)
            if now != was and name not in OF_TRAINING:
                raise ValueError(f"{name} is {now!r}, and the network was made with {was!r}: only fit makes another")
        if learner is None or options != model.options:
            learner = Learner(model.network, kind, options, self._seed())
        before = copy.deepcopy(model.network.state_dict())
        try:
            learner.pass_over(model.labelled(texts, y, weights))
        except BaseException as error:
            model.network.load_state_dict(before)
            model.cut = 0
            self.__dict__.pop("_learner", None)  # it has learned what the network has not
            if isinstance(error, DivergedError):
                raise ValueError(str(error)) from error
            raise
        model.options = options
        model.examples += len(texts)
        model.history, model.held_out = [], 0  # they say nothing of these weights
        self._keep(model)
        self._learner = learner

    def _keep(self, model: Recurrent) -> None:
        self.model_ = model
        self.history_ = model.history
        self.__dict__.pop("_learner", None)

    def _tell_cut(self) -> None:
        """Once all is kept: a warning may be an error."""
        cut, self.model_.cut = self.model_.cut, 0
        if cut:
            warnings.warn(
                f"of {cut:,} texts that are longer than max_tokens={self.max_tokens:,} the rest was not learned from",
                UserWarning,
                stacklevel=3,
            )

    def __sklearn_tags__(self) -> Tags:
        return of_texts(super().__sklearn_tags__())


class RecurrentClassifier(ClassifierMixin, _Recurrent):  # type: ignore[misc]
    __doc__ = f"""A classifier of texts into two classes or more: embedding, recurrent layers, a dense layer.

    {_Recurrent.__doc__} `classes_` has the labels in their order.
    """
    _kinds = ("binary", "classes")

    def fit(self, X: Iterable[str], y: Iterable[object]) -> Self:  # noqa: N803 - scikit-learn's name
        """X: texts; y: a label of every text, of two kinds or more. Raises ValueError, TypeError."""
        texts, labels = checked_with(X, y)
        check_classification_targets(labels)
        classes, numbers = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"there is one class, {classes[0]}: at least two are needed")
        weights = self._weights(classes, labels)
        self._fit(texts, kind_of(len(classes)), classes.tolist(), numbers.astype(np.float64), weights)
        self.classes_ = classes
        self._tell_cut()
        return self

    def partial_fit(self, X: Iterable[str], y: Iterable[object], classes: Iterable[object] | None = None) -> Self:  # noqa: N803
        """One pass over the texts, on from what was fitted before.

        The first call on a new classifier needs `classes`, all labels that will ever come; it learns the words. Raises
        as `fit`.
        """
        texts, labels = checked_with(X, y)
        if self.class_weight == "balanced":
            raise ValueError("class_weight is 'balanced', which parts of the texts cannot tell: give factors by label")
        asked = None if classes is None else np.unique(column_or_1d(labels_of(classes)))
        known = getattr(self, "classes_", asked)
        if known is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if len(known) < 2:
            raise ValueError(f"classes are {known.tolist()}: at least two are needed")
        if asked is not None and not np.array_equal(asked, known):
            raise ValueError(f"classes is not {known}, as on the first call to partial_fit")
        if unknown := sorted(set(labels.tolist()) - set(known.tolist())):
            raise ValueError(f"labels {unknown} are not among the classes {known}")
        numbers = np.searchsorted(known, labels).astype(np.float64)
        self._partial_fit(texts, kind_of(len(known)), known.tolist(), numbers, self._weights(known, labels))
        self.classes_ = known
        self._tell_cut()
        return self

    def predict_proba(self, X: Iterable[str]) -> Answers:  # noqa: N803
        """(texts, classes), in the order of `classes_`."""
        check_is_fitted(self)
        return self.model_.probabilities(checked(X))

    def predict(self, X: Iterable[str]) -> NDArray[Any]:  # noqa: N803
        """The likeliest label of every text."""
        check_is_fitted(self)
        found: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return found

    def _keep(self, model: Recurrent) -> None:
        super()._keep(model)
        if not hasattr(self, "classes_"):
            self.classes_ = np.array(model.labels)

    def _weights(self, classes: NDArray[Any], labels: NDArray[Any]) -> Answers | None:
        """Factors of the losses, (texts,), of mean 1 where all labels weigh alike. classes: all, in their order."""
        if self.class_weight is None:
            return None
        if isinstance(self.class_weight, Mapping):
            for label, factor in self.class_weight.items():
                if not is_finite(plain(factor)) or factor < 0:
                    raise ValueError(f"class_weight of {label!r} is {factor!r}, not a number of 0 or more")
        of_class = compute_class_weight(self.class_weight, classes=classes, y=labels)
        found: Answers = of_class[np.searchsorted(classes, labels)]
        return found


class RecurrentRegressor(RegressorMixin, _Recurrent):  # type: ignore[misc]
    __doc__ = f"""A number of every text, such as its stars, by squared error: the network of `RecurrentClassifier`.

    {_Recurrent.__doc__}
    """
    _kinds = ("value",)

    def fit(self, X: Iterable[str], y: Iterable[float]) -> Self:  # noqa: N803
        """X: texts; y: a number of every text. Raises ValueError, TypeError."""
        texts, values = self._numbers(X, y)
        self._fit(texts, "value", [], values, None)
        self._tell_cut()
        return self

    def partial_fit(self, X: Iterable[str], y: Iterable[float]) -> Self:  # noqa: N803
        """One pass over the texts, on from what was fitted before. Raises as `fit`.

        The first call on a new regressor learns the words, and how numbers are spread.
        """
        texts, values = self._numbers(X, y)
        self._partial_fit(texts, "value", [], values, None)
        self._tell_cut()
        return self

    def predict(self, X: Iterable[str]) -> Answers:  # noqa: N803
        """(texts,)."""
        check_is_fitted(self)
        return self.model_.values(checked(X))

    def _numbers(self, texts: Iterable[str], y: Iterable[float]) -> tuple[list[str], Answers]:
        if self.class_weight is not None:
            raise ValueError(f"class_weight is {self.class_weight!r}, and a regressor has no classes")
        found, values = checked_with(texts, y)
        numbers = values.astype(np.float64)
        if not (np.abs(numbers) <= MAX_NUMBER).all():
            raise ValueError(f"y holds infinity, NaN or numbers beyond {MAX_NUMBER:g}")
        return found, numbers
