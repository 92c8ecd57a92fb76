"""What a network is to answer: one of two classes, one of many, or a number; the loss of each, and its outputs."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Kind = Literal["binary", "classes", "value"]

Answers = NDArray[np.float64]


def kind_of(classes: int) -> Kind:
    """Of a classifier with so many classes, two or more."""
    return "binary" if classes == 2 else "classes"


def outputs_of(kind: Kind, classes: int) -> int:
    """How many numbers the dense layer makes. Two classes need one: the log-odds of the second."""
    return classes if kind == "classes" else 1


def losses(kind: Kind, outputs: Tensor, y: Tensor) -> Tensor:
    """Of every row, (rows,): cross-entropy in nats, or half the squared error. outputs: (rows, outputs); y: (rows,)."""
    if kind == "classes":
        return functional.cross_entropy(outputs, y.long(), reduction="none")
    if kind == "binary":
        return functional.binary_cross_entropy_with_logits(outputs[:, 0], y.to(outputs.dtype), reduction="none")
    return (outputs[:, 0] - y.to(outputs.dtype)).square() / 2


def probabilities(kind: Kind, outputs: NDArray[np.float32]) -> Answers:
    """(texts, classes) of a classifier's outputs, (texts, outputs)."""
    exact = torch.from_numpy(outputs.astype(np.float64))
    if kind == "binary":
        second = torch.sigmoid(exact[:, 0])
        return torch.stack((1 - second, second), dim=1).numpy()
    return torch.softmax(exact, dim=1).numpy()


def deviation(y: Answers) -> float:
    """The standard deviation of numbers, (texts,); 0 where they differ by no more than rounding."""
    found = float(y.std())
    return found if found > 1e-12 * float(np.abs(y).max()) else 0.0


def score(kind: Kind, outputs: NDArray[np.float32], y: NDArray[np.float64]) -> float:
    """Accuracy, or R² of numbers: what share of their variance is predicted."""
    if kind == "value":
        spread = deviation(y)
        return 1 - float(np.square(y - outputs[:, 0]).mean()) / spread**2 if spread else 0.0
    found = outputs[:, 0] > 0 if kind == "binary" else outputs.argmax(axis=1)
    return float((found == y).mean())
