"""The recurrent cells: mLSTM, LSTM and GRU, with weight norm and one interface.

Equations, with x the embedded byte, (h, c) the state before it and (h', c') after it:

    mLSTM   m = (x·Wmx) * (h·Wmh)                        Krause et al. 2016, as in Radford et al. 2017
            i, f, o, u = split(x·Wx + m·Wh + b)          in this order; torch's LSTM orders i, f, u, o
            c' = σ(f)*c + σ(i)*tanh(u);   h' = σ(o)*tanh(c')
    LSTM    as the mLSTM with m = h
    GRU     r, z, n = split(x·Wx + b), split(h·Wh);      Cho et al. 2014, reset after the product
            h' = (1 - σ(z))*tanh(n_x + σ(r)*n_h) + σ(z)*h;   c' = h'

    weight norm, per output column:  W = g * V / sqrt(sum(V², input axis) + 1e-12)
    steepness s:  σ(a) becomes σ(s*a); being linear it is folded into the weights of the gates that σ squashes

A byte has only 256 values, so x·Wx + b and x·Wmx are tables with a row per byte (`CellWeights.input_table`,
`.multiplier_table`): both training and inference look them up instead of multiplying.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

CellName = Literal["mlstm", "lstm", "gru"]
BYTES = 256
GATES: dict[CellName, int] = {"mlstm": 4, "lstm": 4, "gru": 3}

_NORM_EPSILON = 1e-12  # the released code's


class State(NamedTuple):
    """What a row carries from byte to byte. cell, hidden: (rows, units). A GRU's cell is its hidden."""

    cell: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class CellWeights:
    """A cell's weights with weight norm and embedding folded away. Products are `x @ matrix`."""

    input_table: Tensor  # (256, gates * units): x·Wx + b for every byte
    recurrent: Tensor  # (units, gates * units): Wh
    multiplier_table: Tensor | None  # (256, units): x·Wmx, mLSTM only
    multiplier: Tensor | None  # (units, units): Wmh, mLSTM only


def normalized(v: Tensor, g: Tensor) -> Tensor:
    """Weight norm per output column. v: (inputs, outputs), g: (outputs,)."""
    weight: Tensor = _WeightNorm.apply(v, g)  # type: ignore[no-untyped-call]
    return weight


class _WeightNorm(torch.autograd.Function):
    """Its adjoint by hand: autograd's, through square and sqrt, makes three more passes over every matrix."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, g: Tensor) -> Tensor:
        inverse = torch.rsqrt((v * v).sum(0) + _NORM_EPSILON)  # (outputs,)
        ctx.save_for_backward(v, g, inverse)
        return v * (g * inverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        v, g, inverse = ctx.saved_tensors
        (d_weight,) = gradients
        along = (d_weight * v).sum(0) * inverse  # the part of the gradient along each column
        return torch.addcmul(d_weight * (g * inverse), v, -g * along * inverse.square()), along


class Cell(nn.Module):
    """The trainable parameters of one cell, named as in the published system, matrices (inputs, outputs)."""

    def __init__(self, name: CellName, units: int, embedding_size: int, steepness: float = 1.0) -> None:
        super().__init__()
        self.name: CellName = name
        self.units = units
        self.steepness = steepness
        outputs = GATES[name] * units
        self.wx = nn.Parameter(torch.empty(embedding_size, outputs))
        self.wh = nn.Parameter(torch.empty(units, outputs))
        self.b = nn.Parameter(torch.zeros(outputs))
        self.gx = nn.Parameter(torch.empty(outputs))
        self.gh = nn.Parameter(torch.empty(outputs))
        if name == "mlstm":
            self.wmx = nn.Parameter(torch.empty(embedding_size, units))
            self.wmh = nn.Parameter(torch.empty(units, units))
            self.gmx = nn.Parameter(torch.empty(units))
            self.gmh = nn.Parameter(torch.empty(units))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Orthogonal blocks of unit columns, gains that leave them so, zero bias."""
        pairs = [(self.wx, self.gx), (self.wh, self.gh)]
        if self.name == "mlstm":
            pairs += [(self.wmx, self.gmx), (self.wmh, self.gmh)]
        for v, g in pairs:
            for block in torch.split(v, self.units, dim=1):
                nn.init.orthogonal_(block, generator=generator)
            g.copy_(v.norm(dim=0))
        self.b.zero_()

    def weights(self, embedding: Tensor) -> CellWeights:
        """Fold weight norm and `embedding` (256, embedding_size) away. Gradients flow."""
        gx, gh, b = (self._steepened(value) for value in (self.gx, self.gh, self.b))
        input_table = embedding @ normalized(self.wx, gx) + b
        recurrent = normalized(self.wh, gh)
        if self.name != "mlstm":
            return CellWeights(input_table, recurrent, None, None)
        multiplier_table = embedding @ normalized(self.wmx, self.gmx)
        return CellWeights(input_table, recurrent, multiplier_table, normalized(self.wmh, self.gmh))

    def _steepened(self, columns: Tensor) -> Tensor:
        """columns: (gates * units,), the last block that of tanh."""
        if self.steepness == 1.0:
            return columns
        return torch.cat((columns[: -self.units] * self.steepness, columns[-self.units :]))


def step(name: CellName, weights: CellWeights, byte: Tensor, state: State) -> State:
    """One byte for every row, as plainly as the equations. byte: (rows,) int64. The reference for all fast paths."""
    cell, hidden = state
    x = weights.input_table[byte]  # (rows, gates * units)
    if name == "gru":
        xr, xz, xn = x.chunk(3, dim=1)
        hr, hz, hn = (hidden @ weights.recurrent).chunk(3, dim=1)
        update = torch.sigmoid(xz + hz)
        new = (1 - update) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + update * hidden
        return State(new, new)
    if weights.multiplier is not None and weights.multiplier_table is not None:
        hidden = weights.multiplier_table[byte] * (hidden @ weights.multiplier)
    i, f, o, u = (x + hidden @ weights.recurrent).chunk(4, dim=1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(u)
    return State(cell, torch.sigmoid(o) * torch.tanh(cell))
