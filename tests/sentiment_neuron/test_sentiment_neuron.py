"""What the package shows, and what importing it costs."""

import subprocess
import sys
from pathlib import Path

import sentiment_neuron

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "safetensors", "sklearn", "scipy", "click", "fastapi", "celery")


def run(script: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_all_names_are_there_and_sorted() -> None:
    assert sentiment_neuron.__all__ == sorted(sentiment_neuron.__all__)
    assert [name for name in sentiment_neuron.__all__ if not hasattr(sentiment_neuron, name)] == []
    own = {name for name, value in vars(sentiment_neuron).items() if not name.startswith("_")}
    modules = {path.stem for path in Path(sentiment_neuron.__file__).parent.glob("*.py")}
    assert own - modules - {"TYPE_CHECKING"} <= set(sentiment_neuron.__all__)


def test_what_is_raised_is_one_family() -> None:
    errors = [getattr(sentiment_neuron, name) for name in sentiment_neuron.__all__ if name.endswith("Error")]
    assert len(errors) > 1
    assert all(issubclass(error, sentiment_neuron.NeuronError) for error in errors)


def test_importing_loads_nothing_heavy() -> None:
    run(f"import sys; from sentiment_neuron import Neuron; assert not set({HEAVY}) & set(sys.modules), sys.modules")


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(sentiment_neuron, "NeuronFeature")


def test_a_missing_package_is_named() -> None:
    run(
        "import sys; sys.modules['torch'] = None\n"
        "from sentiment_neuron import LoadError, Neuron\n"
        "try: Neuron.load()\n"
        "except LoadError as error: assert str(error) == "
        "\"a model needs torch: pip install 'sentiment-neuron[engine]'\", error\n"
        "else: raise AssertionError"
    )


def test_it_is_typed() -> None:
    assert (Path(sentiment_neuron.__file__).parent / "py.typed").is_file()
