"""An mLSTM as ports of the published model to PyTorch have it: what `neuron bench engine` measures the engine against.

Float32 modules, every product in every step, all rows to the end of the longest text under a mask. Two things speed
it up that not all ports do: weight norm is folded once, and inference mode spares it autograd.
"""

import torch
from torch import Tensor, nn

from model.network.cells import normalized
from model.network.language_model import LanguageModel

_BATCH = 128  # texts side by side, as in the published code


class PlainLoop(nn.Module):
    """The modules of a port, with the weights of an mLSTM."""

    @torch.no_grad()
    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        cell = model.cell
        self.embedding = nn.Embedding(256, model.architecture.embedding_size, device=model.embedding.device)
        self.embedding.weight.copy_(model.embedding)
        self.wx = _linear(normalized(cell.wx, cell.gx), cell.b)
        self.wh = _linear(normalized(cell.wh, cell.gh), None)
        self.wmx = _linear(normalized(cell.wmx, cell.gmx), None)
        self.wmh = _linear(normalized(cell.wmh, cell.gmh), None)

    def forward(self, byte: Tensor, mask: Tensor, cell: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One byte for every row. byte: (rows,); mask: (rows, 1), 0 beyond a row's end; cell, hidden: (rows, units)."""
        x = self.embedding(byte)
        m = self.wmx(x) * self.wmh(hidden)
        i, f, o, u = (self.wx(x) + self.wh(m)).chunk(4, dim=1)
        new = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(u)
        out = torch.sigmoid(o) * torch.tanh(new)
        return mask * new + (1 - mask) * cell, mask * out + (1 - mask) * hidden

    @torch.inference_mode()
    def read(self, text: Tensor, mask: Tensor) -> Tensor:
        """The final cell, (rows, units), on the modules' device. text: (steps, rows) int64; mask: (steps, rows, 1)."""
        cell = torch.zeros(text.shape[1], self.wmh.out_features, device=text.device)
        hidden = cell.clone()
        for byte, present in zip(text, mask, strict=True):
            cell, hidden = self(byte, present, cell, hidden)
        return cell

    def read_texts(self, texts: list[bytes]) -> Tensor:
        """The final cell of each text, (texts, units), in batches in the order given."""
        return torch.cat([self.read(*self._padded(texts[at : at + _BATCH])) for at in range(0, len(texts), _BATCH)])

    def _padded(self, texts: list[bytes]) -> tuple[Tensor, Tensor]:
        device = self.embedding.weight.device
        sequences = [torch.tensor(list(text), device=device) for text in texts]
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(text), 1, device=device) for text in texts])
        return nn.utils.rnn.pad_sequence(sequences), mask


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """weight: (inputs, outputs)."""
    inputs, outputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=bias is not None, device=weight.device)
    linear.weight.copy_(weight.t())
    if bias is not None:
        linear.bias.copy_(bias)
    return linear
