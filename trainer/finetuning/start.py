"""Where a fine-tuning starts: `fit_read_out` gives its read-outs what the features of the model know of the task.

From read-outs of zero the first updates would move all weights of the model to make up for them, which costs few labels
more than they can mend: linear probing, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.folded import FoldedModel
from engine.reading import read_features
from model.heads.cross_validation import Fitted, fit_cv, fit_unit_cv
from model.network.language_model import LanguageModel
from model.network.objective import ReadOut

MOST_READ = 10_000  # training texts, for what is made of their features


def fit_read_out(
    read_out: ReadOut, model: LanguageModel, device: torch.device, texts: list[bytes], classes: NDArray[np.int64]
) -> None:
    """Fit the read-outs on the final cells of texts, as a head is fitted. texts: prepared; classes: (texts,).

    That of the one unit is fitted only for two labels. Raises HeadError where no unit differs between the labels.
    """
    features = read_features(FoldedModel(model, str(device)), texts)
    of_unit = np.ascontiguousarray(features[:, [read_out.unit]])
    units, labels = read_out.weight.shape
    with torch.no_grad():
        _set(read_out.weight, read_out.bias, fit_cv(features, classes, labels), range(units))
        if labels == 2:
            _set(read_out.unit_weight, read_out.unit_bias, fit_unit_cv(of_unit, classes), [0])


def _set(weight: Tensor, bias: Tensor, found: Fitted, units: range | list[int]) -> None:
    """Of two labels a head has the logit of the second over the first: half of it for one, half against the other."""
    rows = len(found.bias)
    weights = torch.tensor([found.weights.get(unit, [0.0] * rows) for unit in units])
    biases = torch.tensor(found.bias)
    if rows == 1:
        weights, biases = (torch.cat([-part / 2, part / 2], dim=-1) for part in (weights, biases))
    weight.copy_(weights.view_as(weight))
    bias.copy_(biases)
