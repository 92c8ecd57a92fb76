"""The front door for Python: a model in this process, with what `POST /classify` and its neighbours offer.

    from sentiment_neuron import Neuron

    with Neuron.load() as neuron:
        for result in neuron.classify(["Great product.", "A waste of money."]):
            print(result.label, result.score)

`Client` and `AsyncClient` are the same in front of a service.

Importing it loads neither torch, which `Neuron.load` needs, nor scikit-learn, which estimators need, nor httpx, which
clients need.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from sentiment_neuron.errors import (
    FileError,
    InvalidRequestError,
    LoadError,
    NeuronError,
    RequestFailedError,
    ServiceError,
)
from sentiment_neuron.neuron import Neuron
from sentiment_neuron.results import Classification, Sample, Trace

if TYPE_CHECKING:
    from sentiment_neuron.client import AsyncClient, Client
    from sentiment_neuron.estimators import NeuronClassifier, NeuronFeatures
    from sentiment_neuron.recurrent import RecurrentClassifier, RecurrentRegressor

__all__ = [
    "AsyncClient",
    "Classification",
    "Client",
    "FileError",
    "InvalidRequestError",
    "LoadError",
    "Neuron",
    "NeuronClassifier",
    "NeuronError",
    "NeuronFeatures",
    "RecurrentClassifier",
    "RecurrentRegressor",
    "RequestFailedError",
    "Sample",
    "ServiceError",
    "Trace",
]


# What needs a library of its own: name -> (module, library, the extra that brings it).
_LATER = {
    "AsyncClient": ("client", "httpx", "client"),
    "Client": ("client", "httpx", "client"),
    "NeuronClassifier": ("estimators", "scikit-learn", "trainer"),
    "NeuronFeatures": ("estimators", "scikit-learn", "trainer"),
    "RecurrentClassifier": ("recurrent", "scikit-learn", "trainer"),
    "RecurrentRegressor": ("recurrent", "scikit-learn", "trainer"),
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, needed, extra = _LATER[name]
    try:
        return getattr(_import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        hint = f"{name} needs {needed}: pip install 'sentiment-neuron[{extra}]' ({error})"
        raise ModuleNotFoundError(hint, name=error.name) from error
