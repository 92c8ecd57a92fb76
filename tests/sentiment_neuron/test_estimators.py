"""`NeuronFeatures` and `NeuronClassifier` in scikit-learn: its own checks of estimators, and a pipeline on texts."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import checkpoint, volumes
from model.heads.classifier import head_probabilities
from model.heads.cross_validation import fit_cv
from sentiment_neuron import LoadError, NeuronClassifier, NeuronFeatures
from tests.conftest import TINY, publish_tiny
from texts.preparation import prepare

TEXTS = ["A delightful film.", "A waste of time!", "", "Ünïcode, &amp; entities\nand lines."]


def spelt(matrix: Any) -> list[str]:
    return [" ".join(f"{value:.3g}" for value in row) for row in matrix]


class OfNumbers(NeuronFeatures):
    """scikit-learn's checks know matrices of numbers alone: here a row is the text of its numbers."""

    def fit(self, texts: Any, y: object = None) -> "OfNumbers":
        super().fit(self._spelt(texts, reset=True))
        return self

    def transform(self, texts: Any) -> NDArray[np.float32]:
        if not hasattr(self, "n_features_in_"):
            raise NotFittedError
        return super().transform(self._spelt(texts, reset=False))

    def fit_transform(self, texts: Any, y: object = None) -> NDArray[np.float32]:
        return self.fit(texts, y).transform(texts)

    def _spelt(self, matrix: Any, reset: bool) -> list[str]:
        return spelt(validate_data(self, matrix, reset=reset))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        return tags


class ClassifierOfNumbers(NeuronClassifier):
    """As `OfNumbers`. A model without training, of a line of digits, classifies poorly."""

    def fit(self, texts: Any, y: Any) -> "ClassifierOfNumbers":
        matrix, labels = validate_data(self, texts, y, reset=True)
        super().fit(spelt(matrix), labels)
        return self

    def predict_proba(self, texts: Any) -> NDArray[np.float64]:
        check_is_fitted(self)
        return super().predict_proba(spelt(validate_data(self, texts, reset=False)))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        return tags


@pytest.fixture(autouse=True)
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`tiny`, by a name from here: scikit-learn's checks are made before there is any directory."""
    monkeypatch.chdir(tmp_path)
    publish_tiny(tmp_path / "tiny", step=1)
    return Path("tiny")


@parametrize_with_checks([OfNumbers("tiny"), ClassifierOfNumbers("tiny")])  # type: ignore[untyped-decorator]
def test_scikit_learns_checks(estimator: OfNumbers | ClassifierOfNumbers, check: Any) -> None:
    check(estimator)


def test_the_features_are_those_of_the_model(volume: Path) -> None:
    loaded = checkpoint.read(volumes.latest(volume))
    expected = read_features(FoldedModel(loaded.model), [prepare(text) for text in TEXTS])
    features = NeuronFeatures(volume, batch_rows=2).fit(TEXTS)
    assert features.transform(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert features.transform(np.array(TEXTS, dtype=object)) == pytest.approx(expected, abs=1e-5)
    assert NeuronFeatures(volume, "tanh").fit_transform(TEXTS) == pytest.approx(np.tanh(expected), abs=1e-5)
    assert list(features.get_feature_names_out()) == [f"unit{unit}" for unit in range(TINY.units)]


def test_in_a_pipeline_and_a_search() -> None:
    texts = [f"{number} " + 6 * letter for number in range(10) for letter in "ab"]
    labels = ["a", "b"] * 10
    pipeline = make_pipeline(NeuronFeatures("tiny"), StandardScaler(), LogisticRegression())
    assert cross_val_score(pipeline, texts, labels, cv=5).mean() > 0.9
    grid = {"neuronfeatures__pooling": ["cell", "tanh"], "logisticregression__C": [0.1, 1.0]}
    assert GridSearchCV(pipeline, grid, cv=2).fit(texts, labels).best_score_ > 0.9


def test_a_pickle_holds_no_weights_and_reads_the_same_ones_again(volume: Path, tmp_path: Path) -> None:
    fitted = NeuronFeatures(volume).fit(TEXTS)
    expected = fitted.transform(TEXTS)
    content = pickle.dumps(fitted)
    assert len(content) < 1000
    publish_tiny(volume, step=2, seed=2)  # what LATEST names now is another affair
    copy = pickle.loads(content)  # noqa: S301 - made here
    assert (copy.transform(TEXTS) == expected).all()
    assert not (clone(fitted).fit(TEXTS).transform(TEXTS) == expected).all()
    for name in ("manifest.json", "model.safetensors"):
        shutil.copy(volume / "tiny" / "step-2" / name, volume / "tiny" / "step-1" / name)
    with pytest.raises(LoadError, match="fit again"):
        pickle.loads(content).transform(TEXTS)  # noqa: S301


def test_texts_that_come_once_only() -> None:
    expected = NeuronFeatures("tiny").fit_transform(TEXTS)
    assert (NeuronFeatures("tiny").fit_transform(text for text in TEXTS) == expected).all()
    fitted = NeuronClassifier("tiny").fit((text for text in ["a", "b"] * 4), [0, 1] * 4)
    assert len(fitted.predict(iter(TEXTS))) == len(TEXTS)


@pytest.mark.parametrize("kind", [NeuronFeatures, NeuronClassifier])
@pytest.mark.parametrize(
    ("parameters", "texts", "error", "message"),
    [
        ({}, "one text", TypeError, "texts is str, not a list"),
        ({}, [], ValueError, "at least 1"),
        ({}, ["a", 1], TypeError, "text 1 is int, not str"),
        ({}, ["a", None], TypeError, r"text 1 is NoneType \(missing\?\), not str"),
        ({}, ["a", float("nan")], TypeError, r"text 1 is float \(missing\?\), not str"),
        ({}, pd.Series(["a", None]), TypeError, r"text 1 is \w+ \(missing\?\), not str"),
        ({}, pa.array(["a", None]), TypeError, r"text 1 is NoneType \(missing\?\), not str"),
        ({}, ["a", "\ud83d"], ValueError, r"text 1 cannot be read: it has a lone surrogate \(U\+D83D\)"),
        ({}, [["a"]], TypeError, "text 0 is list"),
        ({}, np.array([["a"]]), TypeError, r"give one column of it, such as frame\['text'\]"),
        ({}, pd.DataFrame({"text": ["a", "b"]}), TypeError, r"DataFrame, not a list: .* such as frame\['text'\]"),
        ({}, pl.DataFrame({"text": ["a", "b"]}), TypeError, r"DataFrame, not a list: .* such as frame\['text'\]"),
        ({}, {"text": ["a", "b"]}, TypeError, "dict, not"),
        ({}, pa.table({"text": ["a", "b"]}), TypeError, "Table, not"),
        ({"pooling": "median"}, TEXTS, ValueError, "pooling is 'median'"),
        ({"batch_rows": 0}, TEXTS, ValueError, "batch_rows is 0"),
        ({"checkpoint": "nowhere"}, TEXTS, LoadError, "nowhere"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(
    kind: type[NeuronFeatures | NeuronClassifier],
    parameters: dict[str, Any],
    texts: Any,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        kind(**{"checkpoint": "tiny"} | parameters).fit(texts, [0, 1, 0, 1][: len(texts)])


@pytest.mark.parametrize("texts", [pd.Series(TEXTS, index=[5, 5, 1, 0]), pl.Series(TEXTS), pa.array(TEXTS)], ids=type)
def test_columns_of_any_library(texts: Any) -> None:
    expected = NeuronFeatures("tiny").fit_transform(TEXTS)
    assert (NeuronFeatures("tiny").fit_transform(texts) == expected).all()


def test_before_fit_nothing_is_transformed() -> None:
    with pytest.raises(NotFittedError):
        NeuronFeatures("tiny").transform(TEXTS)


class TestClassifier:
    TEXTS: ClassVar = [f"{number} " + 6 * letter for number in range(10) for letter in "abc"]
    LABELS: ClassVar = ["low", "middle", "high"] * 10

    def test_learns_labels_of_any_kind(self) -> None:
        fitted = NeuronClassifier("tiny").fit(self.TEXTS, self.LABELS)
        assert list(fitted.classes_) == ["high", "low", "middle"]
        assert fitted.score(self.TEXTS, self.LABELS) > 0.9
        probabilities = fitted.predict_proba(self.TEXTS[:3])
        assert probabilities.shape == (3, 3)
        assert probabilities.sum(axis=1) == pytest.approx(1)
        assert list(fitted.classes_[probabilities.argmax(axis=1)]) == list(fitted.predict(self.TEXTS[:3]))
        low, high = fitted.accuracy_interval_
        assert low <= fitted.accuracy_ <= high

    def test_is_the_head_that_is_fitted_on_the_command_line(self) -> None:
        fitted = NeuronClassifier("tiny", seed=3).fit(self.TEXTS, self.LABELS)
        features = NeuronFeatures("tiny", "mean").fit_transform(self.TEXTS)
        numbers = np.array([list(fitted.classes_).index(label) for label in self.LABELS])
        expected = fit_cv(features.copy(), numbers, 3, 3).head(["0", "1", "2"], "mean")
        assert fitted.predict_proba(self.TEXTS) == pytest.approx(head_probabilities(expected, features))

    def test_in_a_search(self) -> None:
        found = GridSearchCV(NeuronClassifier("tiny"), {"pooling": ["cell", "mean"]}, cv=2)
        assert found.fit(self.TEXTS, self.LABELS).best_score_ > 0.9

    def test_a_pickle_holds_no_weights(self) -> None:
        fitted = NeuronClassifier("tiny").fit(self.TEXTS, self.LABELS)
        content = pickle.dumps(fitted)
        assert len(content) < 5000
        copy = pickle.loads(content)  # noqa: S301 - made here
        assert (copy.predict_proba(self.TEXTS) == fitted.predict_proba(self.TEXTS)).all()

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (["a"] * 30, "there is one class, a: at least two are needed"),
            (["a", "b"], "inconsistent numbers of samples"),
            ([0.5] * 29 + [1.5], "Unknown label type: continuous"),
        ],
    )
    def test_labels_that_cannot_be_learned(self, labels: list[Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            NeuronClassifier("tiny").fit(self.TEXTS, labels)


def test_the_rest_does_without_scikit_learn_and_loads_no_compiler() -> None:
    """Whatever else of the package is imported: `NeuronFeatures` alone needs the one, and training the other."""
    script = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import model.checkpoints.checkpoint, model.checkpoints.head_store, model.heads.cross_validation\n"
        "import engine.reading, sentiment_neuron.runner, worker.fitting\n"
        "assert 'torch._dynamo' not in sys.modules, 'a compiler takes as long to load as all of torch'"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(checkpoint.__file__).parents[2])
