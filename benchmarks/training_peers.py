"""Updates by other people's recurrent networks, for `neuron bench training`: torch.nn.LSTM, and FlashRNN where it is.

They are LSTMs, with one product a step where the mLSTM has two; embedding, output, clipping and Adam are the same.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor, nn

Update = Callable[[], None]
_EMBEDDING = 64


def peers(units: int, text: Tensor, dtype: torch.dtype) -> Iterator[tuple[str, Update]]:
    """Name and update of each. text: (window + 1, lanes) int64, on the device. dtype: of products, on a GPU."""
    yield "torch.nn.LSTM", _update(_Library(units), units, text, dtype)
    if text.is_cuda and find_spec("flashrnn") is not None:
        yield "FlashRNN", _update(_FlashRNN(units), units, text, dtype)


class _Library(nn.Module):
    """torch.nn.LSTM: cuDNN on a GPU, oneDNN on a CPU."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_EMBEDDING, units)

    def forward(self, x: Tensor) -> Tensor:
        """x: (window, lanes, embedding) -> (window, lanes, units)."""
        hidden: Tensor = self.lstm(x)[0]
        return hidden


class _FlashRNN(nn.Module):
    """The fused kernels of Pöppel, Beck & Hochreiter 2024 (arXiv 2412.07752), as one head."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(_EMBEDDING, 4 * units)
        self.recurrent = nn.Parameter(torch.randn(4, 1, units, units) / units**0.5)
        self.bias = nn.Parameter(torch.zeros(4, 1, units))

    def forward(self, x: Tensor) -> Tensor:
        """As `_Library.forward`."""
        from flashrnn import flashrnn  # type: ignore[import-not-found]  # noqa: PLC0415 - where it is installed

        window, lanes, _ = x.shape
        wx = self.inputs(x).view(window, lanes, 4, 1, -1).transpose(0, 1).contiguous()
        low = wx.dtype
        states, _ = flashrnn(wx, self.recurrent.to(low), self.bias.to(low), function="lstm", backend="cuda_fused")
        hidden: Tensor = states[0].squeeze(-2).transpose(0, 1)
        return hidden


def _update(network: nn.Module, units: int, text: Tensor, dtype: torch.dtype) -> Update:
    device = text.device
    model = nn.ModuleList([nn.Embedding(256, _EMBEDDING), network, nn.Linear(units, 256)]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def update() -> None:
        embedding, recurrent, output = model
        # On a CPU, torch's LSTM is slower in bfloat16 than in float32.
        with torch.autocast(device.type, dtype, enabled=text.is_cuda and dtype != torch.float32):
            logits = output(recurrent(embedding(text[:-1])))
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), text[1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update
