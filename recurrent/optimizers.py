"""The optimizers that can be chosen, each with the learning rate that it has if none is given."""

from collections.abc import Iterable

import torch
from torch import nn, optim

from recurrent.options import Optimizer

# `neuron evaluate tricks` compares them.
DEFAULTS: dict[Optimizer, float] = {
    "sgd": 0.5,
    "momentum": 0.05,
    "nag": 0.15,
    "rmsprop": 3e-3,
    "adagrad": 0.06,
    "adadelta": 1.5,  # 0.5 in Radford's slides
    "adam": 6e-3,
}


def optimizer(name: Optimizer, parameters: Iterable[nn.Parameter], learning_rate: float | None) -> optim.Optimizer:
    """learning_rate: None for that of `DEFAULTS`."""
    rate = DEFAULTS[name] if learning_rate is None else learning_rate
    parameters = list(parameters)
    match name:
        case "sgd":
            return optim.SGD(parameters, rate)
        case "momentum":
            return optim.SGD(parameters, rate, momentum=0.9)
        case "nag":  # Nesterov's accelerated gradient
            return optim.SGD(parameters, rate, momentum=0.9, nesterov=True)
        case "rmsprop":
            return optim.RMSprop(parameters, rate, alpha=0.9)
        case "adagrad":
            return optim.Adagrad(parameters, rate)
        case "adadelta":
            return optim.Adadelta(parameters, rate, rho=0.95, eps=1e-6)  # Zeiler 2012
        case "adam":
            return optim.Adam(parameters, rate, fused=_fused(parameters))  # one pass over a large embedding, not ten


def _fused(parameters: list[nn.Parameter]) -> bool:
    return all(parameter.dtype == torch.float32 for parameter in parameters)
