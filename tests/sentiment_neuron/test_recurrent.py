"""`RecurrentClassifier` and `RecurrentRegressor` in scikit-learn: its own checks, and what they learn from texts."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import VotingClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.utils import Tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from recurrent.options import Options
from sentiment_neuron import LoadError, RecurrentClassifier, RecurrentRegressor
from tests.recurrent.reviews import LABELS, TEXTS

SMALL: dict[str, Any] = {
    "embedding": 8, "units": 8, "batch_size": 8, "epochs": 20, "learning_rate": 0.02, "min_df": 1, "patience": 20,
}  # fmt: skip
FOLDS = StratifiedKFold(2, shuffle=True, random_state=0)
TINY = SMALL | {"epochs": 1, "embedding": 2, "units": 2, "batch_size": 32}


def spelt(matrix: Any) -> list[str]:
    return [" ".join(f"{value:.3g}" for value in row) for row in matrix]


class ClassifierOfNumbers(RecurrentClassifier):
    """scikit-learn's checks know matrices of numbers alone: here a row is the text of its numbers."""

    def fit(self, X: Any, y: Any) -> "ClassifierOfNumbers":  # noqa: N803
        matrix, labels = validate_data(self, X, y, reset=True)
        super().fit(spelt(matrix), labels)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> "ClassifierOfNumbers":  # noqa: N803
        matrix, labels = validate_data(self, X, y, reset=not hasattr(self, "classes_"))
        super().partial_fit(spelt(matrix), labels, classes)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        check_is_fitted(self)
        return super().predict_proba(spelt(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return of_numbers(tags)


class RegressorOfNumbers(RecurrentRegressor):
    """As `ClassifierOfNumbers`."""

    def fit(self, X: Any, y: Any) -> "RegressorOfNumbers":  # noqa: N803
        matrix, values = validate_data(self, X, y, reset=True, y_numeric=True)
        super().fit(spelt(matrix), values)
        return self

    def partial_fit(self, X: Any, y: Any) -> "RegressorOfNumbers":  # noqa: N803
        matrix, values = validate_data(self, X, y, reset=not hasattr(self, "model_"), y_numeric=True)
        super().partial_fit(spelt(matrix), values)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        check_is_fitted(self)
        return super().predict(spelt(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return of_numbers(tags)


def of_numbers(tags: Tags) -> Tags:
    tags.input_tags.two_d_array = True
    tags.input_tags.one_d_array = tags.input_tags.string = False
    return tags


@parametrize_with_checks([ClassifierOfNumbers(**TINY), RegressorOfNumbers(**TINY)])  # type: ignore[untyped-decorator]
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize(
    ("cell", "tokens"), [("gru", "words"), ("lstm", "words"), ("mlstm", "words"), ("gru", "bytes"), ("lstm", "bytes")]
)
def test_it_learns_texts(cell: Any, tokens: Any) -> None:
    more = {"dropout": 0.1, "units": 16} if tokens == "bytes" else {}
    model = RecurrentClassifier(**SMALL | more, cell=cell, tokens=tokens).fit(TEXTS, LABELS)
    assert model.score(TEXTS, LABELS) > 0.95
    assert list(model.classes_) == ["bad", "good"]
    assert model.predict(["A splendid lamp."]) == ["good"]
    assert len(model.history_) <= SMALL["epochs"]


def test_columns_of_tables_and_texts_that_come_once() -> None:
    expected = RecurrentClassifier(**SMALL).fit(TEXTS, LABELS).predict_proba(TEXTS)
    frame = pd.DataFrame({"text": TEXTS, "label": LABELS})
    model = RecurrentClassifier(**SMALL).fit(frame["text"], frame["label"])
    assert (model.predict_proba(text for text in TEXTS) == expected).all()


def test_many_classes_and_their_weights() -> None:
    texts = [*TEXTS, *["It is a film."] * 6]
    labels = [*LABELS, *["so so"] * 6]
    model = RecurrentClassifier(**SMALL, class_weight="balanced").fit(texts, labels)
    assert list(model.classes_) == ["bad", "good", "so so"]
    assert model.predict_proba(texts).sum(axis=1) == pytest.approx(1)
    assert model.score(texts, labels) > 0.95
    with pytest.raises(ValueError, match="class_weight"):
        RecurrentClassifier(**TINY, class_weight="fair").fit(TEXTS, LABELS)


def test_labels_that_are_numbers_come_back_as_numbers(tmp_path: Path) -> None:
    stars = [5 if label == "good" else 1 for label in LABELS]
    model = RecurrentClassifier(**SMALL).fit(TEXTS, stars)
    model.save(tmp_path / "stars")
    found = RecurrentClassifier.load(tmp_path / "stars")
    assert found.predict(TEXTS).tolist() == model.predict(TEXTS).tolist()
    assert found.classes_.tolist() == [1, 5]
    assert found.get_params() == model.get_params()


def test_a_regression(tmp_path: Path) -> None:
    stars = [4.5 if label == "good" else 1.5 for label in LABELS]
    model = RecurrentRegressor(**SMALL | {"epochs": 40}).fit(TEXTS, stars)
    assert model.score(TEXTS, stars) > 0.8
    model.save(tmp_path / "stars")
    assert (RecurrentRegressor.load(tmp_path / "stars").predict(TEXTS) == model.predict(TEXTS)).all()
    with pytest.raises(LoadError, match="answers a number"):
        RecurrentClassifier.load(tmp_path / "stars")
    with pytest.raises(ValueError, match="a regressor has no classes"):
        RecurrentRegressor(**TINY, class_weight="balanced").fit(TEXTS, stars)


def test_passes_one_by_one() -> None:
    model = RecurrentClassifier(**SMALL)
    with pytest.raises(ValueError, match="classes must be passed"):
        model.partial_fit(TEXTS, LABELS)
    for _ in range(20):
        model.partial_fit(TEXTS, LABELS, classes=["good", "bad"])
    assert model.score(TEXTS, LABELS) > 0.95
    with pytest.raises(ValueError, match=r"labels \['odd'\] are not among the classes"):
        model.partial_fit(TEXTS[:1], ["odd"])
    with pytest.raises(ValueError, match="as on the first call"):
        model.partial_fit(TEXTS, LABELS, classes=["good", "bad", "odd"])


def test_what_fails_leaves_a_fitted_one_as_it_was() -> None:
    model = RecurrentClassifier(**TINY).fit(TEXTS, LABELS)
    before = model.predict_proba(TEXTS)
    with pytest.raises(ValueError, match="units is 0"):
        model.set_params(units=0).fit(TEXTS, [f"not {label}" for label in LABELS])
    assert list(model.classes_) == ["bad", "good"]
    assert (model.predict_proba(TEXTS) == before).all()
    new = RecurrentClassifier(**TINY | {"units": 0})
    with pytest.raises(ValueError, match="units is 0"):
        new.partial_fit(TEXTS, LABELS, classes=["bad", "good"])
    assert not hasattr(new, "classes_")


def test_weights_of_parts_are_those_that_are_given() -> None:
    with pytest.raises(ValueError, match="'balanced', which parts of the texts cannot tell"):
        RecurrentClassifier(**TINY, class_weight="balanced").partial_fit(TEXTS, LABELS, classes=["bad", "good"])
    with pytest.raises(ValueError, match="all weights are 0"):
        RecurrentClassifier(**TINY, class_weight={"bad": 0, "good": 0}).fit(TEXTS, LABELS)


def test_labels_that_cannot_be_stored_say_so(tmp_path: Path) -> None:
    model = RecurrentClassifier(**TINY).fit(TEXTS, [f"{label}\r" for label in LABELS])
    with pytest.raises(ValueError, match=f"{tmp_path / 'x'} cannot be written: its labels"):
        model.save(tmp_path / "x")


def test_a_fitted_one_goes_on_by_passes() -> None:
    model = RecurrentClassifier(**SMALL | {"epochs": 1}).fit(TEXTS, LABELS)
    before = model.predict_proba(TEXTS)
    for _ in range(20):
        model.partial_fit(TEXTS, LABELS)
    assert model.score(TEXTS, LABELS) > 0.95
    assert not (model.predict_proba(TEXTS) == before).all()


def test_in_a_search_a_vote_and_a_pickle() -> None:
    search = GridSearchCV(RecurrentClassifier(**SMALL), {"cell": ["gru", "lstm"], "units": np.array([4, 8])}, cv=FOLDS)
    assert search.fit(TEXTS, LABELS).best_score_ > 0.6
    copy = pickle.loads(pickle.dumps(search.best_estimator_))  # noqa: S301 - made here
    assert (copy.predict_proba(TEXTS) == search.predict_proba(TEXTS)).all()
    seeds = [(str(seed), RecurrentClassifier(**SMALL, random_state=seed)) for seed in range(2)]
    vote = VotingClassifier(seeds, voting="soft").fit(TEXTS, LABELS)
    assert vote.score(TEXTS, LABELS) > 0.95
    assert cross_val_score(clone(seeds[0][1]), TEXTS, LABELS, cv=FOLDS).mean() > 0.6


def test_a_text_longer_than_is_learned_from_is_told_and_predicted_whole() -> None:
    long = [f"{text} {'and so on ' * 20}" for text in TEXTS]
    with pytest.warns(UserWarning, match=r"of 54 texts that are longer than max_tokens=9 the rest was not"):
        model = RecurrentClassifier(**SMALL, max_tokens=9).fit(long, LABELS)
    other = [f"{text} {'awful ' * 20}" for text in TEXTS]
    assert not (model.predict_proba(long) == model.predict_proba(other)).all()


def test_progress_is_told_on_stderr() -> None:
    code = (
        "from sentiment_neuron import RecurrentClassifier\nfrom tests.recurrent.reviews import LABELS, TEXTS\n"
        f"RecurrentClassifier(verbose=True, **{SMALL | {'epochs': 2}}).fit(TEXTS, LABELS)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = run.stderr.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert "held out" in lines[0]


@pytest.mark.parametrize(
    ("options", "texts", "labels", "told"),
    [
        ({}, [], [], "there are 0 texts"),
        ({}, ["a", None], [0, 1], "text 1 is NoneType"),
        ({}, ["a", "b"], [0, 0], "there is one class, 0"),
        ({}, ["a", "b"], [0, None], "label 1 is missing"),
        ({}, ["a", "b"], [0, 1, 1], "inconsistent numbers of samples"),
        ({"cell": "transformer"}, ["a", "b"], [0, 1], "cell is 'transformer', not one of gru, lstm, mlstm, rnn"),
        ({"min_df": 3}, ["a", "b"], [0, 1], "no word is in min_df=3 or more of the 2 texts: lower min_df"),
        ({"learning_rate": 1e9, "epochs": 3}, TEXTS, LABELS, "more than 100000: lower learning_rate (1e+09)"),
        ({"device": "tpu"}, ["a", "b"], [0, 1], "device is 'tpu', not one of auto, cpu, cuda"),
    ],
)
def test_what_cannot_be_fitted_says_why(options: Any, texts: Any, labels: Any, told: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        RecurrentClassifier(**TINY | options).fit(texts, labels)
    assert told in str(error.value)


def test_what_is_not_a_classifier_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="cannot be read"):
        RecurrentClassifier.load(tmp_path)
    (tmp_path / "classifier.json").write_text(json.dumps([]))
    with pytest.raises(LoadError, match="is not a recurrent classifier"):
        RecurrentClassifier.load(tmp_path)


def test_defaults_are_those_of_the_options() -> None:
    assert RecurrentClassifier()._options() == Options()
