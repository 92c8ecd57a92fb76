"""The front door for Python: a model in this process, with what `POST /classify` and its neighbours offer.

    from sentiment_neuron import Neuron

    with Neuron.load() as neuron:
        for result in neuron.classify(["Great product.", "A waste of money."]):
            print(result.label, result.score)

Importing it loads neither torch, which `Neuron.load` needs, nor scikit-learn, which `NeuronFeatures` needs.
"""

from typing import TYPE_CHECKING

from sentiment_neuron.errors import FileError, InvalidRequestError, LoadError, NeuronError, RequestFailedError
from sentiment_neuron.neuron import Neuron
from sentiment_neuron.results import Classification, Sample, Trace

if TYPE_CHECKING:
    from sentiment_neuron.estimators import NeuronClassifier, NeuronFeatures

__all__ = [
    "Classification",
    "FileError",
    "InvalidRequestError",
    "LoadError",
    "Neuron",
    "NeuronClassifier",
    "NeuronError",
    "NeuronFeatures",
    "RequestFailedError",
    "Sample",
    "Trace",
]


def __getattr__(name: str) -> object:
    if name not in ("NeuronClassifier", "NeuronFeatures"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sentiment_neuron import estimators  # noqa: PLC0415 - it loads torch and scikit-learn

    return getattr(estimators, name)
