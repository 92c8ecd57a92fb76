"""`RecurrentClassifier` and `RecurrentRegressor` in scikit-learn: its own checks, and what they learn from texts."""

import json
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
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
from recurrent.published import Published
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


def test_numbers_are_learned_by_passes_as_they_are_spread() -> None:
    stars = [500.0 if label == "good" else 300.0 for label in LABELS]
    model = RecurrentRegressor(**SMALL)
    for _ in range(40):
        model.partial_fit(TEXTS, stars)
    assert model.score(TEXTS, stars) > 0.8


def test_held_out_numbers_that_are_all_one_can_be_kept(tmp_path: Path) -> None:
    model = RecurrentRegressor(**TINY).fit(TEXTS, [5.1] * len(TEXTS))
    assert model.history_[0].valid_score == 0
    model.save(tmp_path / "x")


def test_passes_one_by_one() -> None:
    model = RecurrentClassifier(**SMALL)
    with pytest.raises(ValueError, match="classes must be passed"):
        model.partial_fit(TEXTS, LABELS)
    for _ in range(20):
        model.partial_fit(TEXTS, LABELS, classes=["good", "bad"])
    assert model.score(TEXTS, LABELS) > 0.95
    with pytest.raises(ValueError, match=r"labels \['odd'\] are not among the classes"):
        model.partial_fit(TEXTS[:1], ["odd"])
    with pytest.raises(ValueError, match=r"classes are \[\]: at least two are needed"):
        RecurrentClassifier(**SMALL).partial_fit(TEXTS, LABELS, classes=[])
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


def test_a_pass_that_diverges_leaves_a_fitted_one_as_it_was() -> None:
    model = RecurrentClassifier(**SMALL).fit(TEXTS, LABELS)
    before = model.predict_proba(TEXTS)
    with pytest.raises(ValueError, match="lower learning_rate"):
        model.set_params(learning_rate=1e30, optimizer="sgd", clip=None).partial_fit(TEXTS, LABELS)
    assert (model.predict_proba(TEXTS) == before).all()
    model.set_params(learning_rate=0.02, optimizer="adam").partial_fit(TEXTS, LABELS)
    assert not (model.predict_proba(TEXTS) == before).all()


def test_a_warning_that_is_an_error_comes_when_all_is_kept() -> None:
    model = RecurrentClassifier(**TINY, max_tokens=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="max_tokens=2"):
            model.fit(TEXTS, LABELS)
    assert list(model.classes_) == ["bad", "good"]


def test_passes_go_on_with_the_network_and_what_is_asked_of_the_training() -> None:
    model = RecurrentClassifier(**SMALL).fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="units is 5, and the network was made with 8: only fit makes another"):
        model.set_params(units=5).partial_fit(TEXTS, LABELS)
    model.set_params(units=8).partial_fit(TEXTS, LABELS)
    learner = model._learner
    with pytest.raises(ValueError, match="cell is 'lstm'"):
        model.set_params(cell="lstm").partial_fit(TEXTS, LABELS)
    model.set_params(cell="gru").partial_fit(TEXTS, LABELS)
    assert model._learner is learner  # the state of its optimizer goes on
    before = model.predict_proba(TEXTS)
    model.set_params(learning_rate=1e-12).partial_fit(TEXTS, LABELS)
    assert model.predict_proba(TEXTS) == pytest.approx(before, abs=1e-6)
    assert model.history_ == []  # the passes of `fit` made other weights
    assert Published("x", model.model_).listed()["accuracy"] is None


def test_threads_may_predict_at_once() -> None:
    model = RecurrentClassifier(**TINY, cell="mlstm").fit(TEXTS, LABELS)
    expected = model.predict_proba(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(model.predict_proba, [TEXTS] * 32):
            assert (found == expected).all()


def test_weights_of_parts_are_those_that_are_given() -> None:
    heavy = RecurrentClassifier(**TINY, class_weight={"bad": 2.0})
    heavy.partial_fit(TEXTS[:30], LABELS[:30], classes=["bad", "good"])  # all of them good
    with pytest.raises(ValueError, match="'balanced', which parts of the texts cannot tell"):
        RecurrentClassifier(**TINY, class_weight="balanced").partial_fit(TEXTS, LABELS, classes=["bad", "good"])
    with pytest.raises(ValueError, match="all weights are 0"):
        RecurrentClassifier(**TINY, class_weight={"bad": 0, "good": 0}).fit(TEXTS, LABELS)
    factors: list[Any] = [-1, np.nan, "2"]
    for factor in factors:
        with pytest.raises(ValueError, match=r"class_weight of .bad. is .*, not a number of 0"):
            RecurrentClassifier(**TINY, class_weight={"bad": factor, "good": 1}).fit(TEXTS, LABELS)


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
    """Of many labels with few texts each, from which nothing is held out, too."""
    code = (
        "from sentiment_neuron import RecurrentClassifier\nfrom tests.recurrent.reviews import LABELS, TEXTS\n"
        f"model = RecurrentClassifier(verbose=True, **{SMALL | {'epochs': 2}}).fit(TEXTS, LABELS)\n"
        "model.set_params(epochs=None).fit(TEXTS, [number // 6 for number in range(60)])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = run.stderr.strip().splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert [line.split(":")[0] for line in lines[2:]] == [f"epoch {n} of 50" for n in range(1, len(lines) - 1)]
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
