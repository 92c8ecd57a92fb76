"""`NeuronFeatures` in scikit-learn: its own checks of estimators, and a pipeline on texts."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
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
from sklearn.utils.validation import validate_data

from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import checkpoint, volumes
from model.texts.preparation import prepare
from sentiment_neuron import LoadError, NeuronFeatures
from tests.conftest import TINY, publish_tiny

TEXTS = ["A delightful film.", "A waste of time!", "", "Ünïcode, &amp; entities\nand lines."]


class OfNumbers(NeuronFeatures):
    """scikit-learn's checks know matrices of numbers alone: here a row is the text of its numbers."""

    def fit(self, texts: Any, y: object = None) -> "OfNumbers":
        super().fit(self._spelt(texts, reset=True))
        return self

    def transform(self, texts: Any) -> NDArray[np.float32]:
        if not hasattr(self, "n_features_in_"):
            raise NotFittedError
        return super().transform(self._spelt(texts, reset=False))

    def _spelt(self, matrix: Any, reset: bool) -> list[str]:
        checked = validate_data(self, matrix, reset=reset)
        return [" ".join(f"{value:.3g}" for value in row) for row in checked]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        return tags


@pytest.fixture(autouse=True)
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`tiny`, by a name from here: scikit-learn's checks are made before there is any directory."""
    monkeypatch.chdir(tmp_path)
    publish_tiny(tmp_path / "tiny", step=1)
    return Path("tiny")


@parametrize_with_checks([OfNumbers("tiny")])  # type: ignore[untyped-decorator]
def test_scikit_learns_checks(estimator: OfNumbers, check: Any) -> None:
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


@pytest.mark.parametrize(
    ("parameters", "texts", "error"),
    [
        ({}, "one text", TypeError),
        ({}, [], ValueError),
        ({}, ["a", 1], TypeError),
        ({}, [["a"]], TypeError),
        ({"pooling": "median"}, TEXTS, ValueError),
        ({"batch_rows": 0}, TEXTS, ValueError),
        ({"checkpoint": "nowhere"}, TEXTS, LoadError),
    ],
)
def test_what_is_no_list_of_texts_is_refused(parameters: dict[str, Any], texts: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        NeuronFeatures(**{"checkpoint": "tiny"} | parameters).fit(texts)


def test_before_fit_nothing_is_transformed() -> None:
    with pytest.raises(NotFittedError):
        NeuronFeatures("tiny").transform(TEXTS)


def test_the_rest_does_without_scikit_learn_and_loads_no_compiler() -> None:
    """Whatever else of the package is imported: `NeuronFeatures` alone needs the one, and training the other."""
    script = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import model.checkpoints.checkpoint, model.checkpoints.head_store, model.heads.cross_validation\n"
        "import engine.reading, sentiment_neuron.runner, worker.fitting\n"
        "assert 'torch._dynamo' not in sys.modules, 'a compiler takes as long to load as all of torch'"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(checkpoint.__file__).parents[2])
