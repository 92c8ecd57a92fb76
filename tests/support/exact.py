"""What the reference step makes of a text, byte by byte in float64."""

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from model.network import cells
from model.network.language_model import LanguageModel


def mean_hidden(model: LanguageModel, text: bytes) -> NDArray[np.float64]:
    """The mean of the hidden states, (units,)."""
    exact = copy.deepcopy(model).double()
    state = exact.zero_state(1)
    hidden_sum = torch.zeros_like(state.hidden)
    with torch.no_grad():
        weights = exact.cell.weights(exact.embedding)
        for byte in text:
            state = cells.step(exact.cell.name, weights, torch.tensor([byte]), state)
            hidden_sum += state.hidden
    mean: NDArray[np.float64] = (hidden_sum[0] / len(text)).numpy()
    return mean
