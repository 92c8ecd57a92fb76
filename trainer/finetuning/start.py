"""Where a fine-tuning starts: read-outs fitted on the model as it came, `fit_read_out`.

From read-outs of zero the first updates would change all weights of the model to make up for them. With few labels that
does more harm than they can repair; so first the read-outs alone, then everything (Kumar et al. 2022, arXiv
2202.10054). They are fitted on what the loss reads: cells at bytes drawn by their weights in it (task.py), and at the
end of every text, where the head is read.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.heads.classifier import Head, fit_l1
from model.network.objective import ReadOut

Cells = NDArray[np.float32]
Classes = NDArray[np.int64]

_MOST_CELLS = 32_768
_OF_A_TEXT = (3, 8)  # at least, even beyond all cells, and at most


def places(lengths: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Bytes of texts to read the cell after, (places of a text, texts): the last, and others that weigh as they do."""
    least, most = _OF_A_TEXT
    count = max(least, min(most, _MOST_CELLS // len(lengths)))
    drawn = lengths * np.sqrt(generator.random((count - 1, len(lengths))))
    return np.concatenate([lengths[None] - 1, drawn.astype(np.int64)])


def fit_read_out(
    read_out: ReadOut, train: tuple[Cells, Classes], valid: tuple[Cells, Classes], labels: list[str], of_unit: bool
) -> None:
    """Fit the read-outs with L1, whose C the validation texts choose; that of the one unit where `of_unit`.

    train, valid: cells (texts, places, units) and classes (texts,). The validation texts count by their first place.
    """
    cells, classes = train[0].reshape(-1, train[0].shape[2]), train[1].repeat(train[0].shape[1])
    ends = valid[0][:, 0]
    _set(read_out.weight, read_out.bias, fit_l1(cells, classes, ends, valid[1], labels))
    if of_unit:
        unit = [read_out.unit]
        found = fit_l1(cells[:, unit], classes, ends[:, unit], valid[1], labels)
        if found.weights:  # else the unit says nothing yet, and keeps the direction that it was given
            _set(read_out.unit_weight, read_out.unit_bias, found)


@torch.no_grad()
def _set(weight: Tensor, bias: Tensor, head: Head) -> None:
    """Of two labels a head has the logit of the second over the first: half of it for one, half against the other."""
    rows = len(head.bias)
    units = range(weight.numel() // len(bias))
    weights = torch.tensor([head.weights.get(unit, [0.0] * rows) for unit in units])
    biases = torch.tensor(head.bias)
    if rows == 1:
        weights, biases = (torch.cat([-part / 2, part / 2], dim=-1) for part in (weights, biases))
    weight.copy_(weights.view_as(weight))
    bias.copy_(biases)
