"""The network: an embedding, layers that read in one direction or two, pooling over time, one dense layer.

    x_t = dropout(E[token_t]);   h_t = layers(x_1 ... x_t);   y = dropout(pool(h_1 ... h_n))·W + b

torch's own GRU, LSTM and RNN do the work of those cells, the mLSTM's is that of the language model (model/network).
With two directions a second stack of layers reads the text from its end; both are pooled, and the dense layer reads the
two vectors side by side. What comes after the end of a text that is shorter than its neighbours in a batch never
counts.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from model.network.cells import CellWeights, State
from model.network.chains import Buffers
from model.network.sequence import Window
from recurrent.options import Options, Pooling

EMBEDDING_STD = 0.1
PART = 2048  # steps of a text that are read before anything can interrupt it
_FORGET_BIAS = 1.0  # the cell keeps what it has until it has learned otherwise (Jozefowicz et al. 2015)

_TORCH = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}
_FUNCTION: dict[str, Callable[..., tuple[Tensor, ...]]] = {"gru": torch.gru, "lstm": torch.lstm, "rnn": torch.rnn_tanh}
_TANH_BLOCK = {"gru": 2, "lstm": 2, "rnn": 0}  # of a cell's blocks of `units` rows, the one that no gate has

_Carried = tuple[Tensor, ...] | None  # what a stack of layers carries from one part of a text to the next


class Network(nn.Module):
    """outputs: numbers that the dense layer makes."""

    def __init__(self, options: Options, tokens: int, outputs: int) -> None:
        super().__init__()
        self.options = options
        self.embedding = nn.Embedding(tokens, options.embedding)
        directions = 2 if options.bidirectional else 1
        stack = MultiplicativeStack if options.cell == "mlstm" else TorchStack
        self.stacks = nn.ModuleList(stack(options) for _ in range(directions))
        self.dense = nn.Linear(directions * options.units, outputs)
        self.dropout = Dropout(options.dropout)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Initialise every parameter."""
        self.embedding.weight.normal_(0.0, EMBEDDING_STD, generator=generator)
        for stack in self.stacks:
            stack.reset(generator)  # type: ignore[operator]
        nn.init.xavier_uniform_(self.dense.weight, generator=generator)
        self.dense.bias.zero_()

    def forward(self, tokens: Tensor, lengths: Tensor, check: Callable[[], None] = lambda: None) -> Tensor:
        """tokens: (steps, rows) int64; lengths: (rows,) -> (rows, outputs).

        check: called before every part of a long text that is read without gradients; what it raises ends the reading.
        """
        pooled = [self._read(self.stacks[0], tokens, lengths, check)]
        if len(self.stacks) == 2:
            backward = lengths - 1 - torch.arange(len(tokens), device=tokens.device)[:, None]  # (steps, rows)
            pooled.append(self._read(self.stacks[1], tokens.gather(0, backward.clamp(min=0)), lengths, check))
        outputs: Tensor = self.dense(self.dropout(torch.cat(pooled, dim=1)))
        return outputs

    @property
    def size(self) -> int:
        """How many numbers its parameters have."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forget(self) -> None:
        """Give back memory that is kept for the next batch."""
        for module in self.modules():
            if isinstance(module, MultiplicativeLayer):
                module.window.buffers = Buffers()

    def _read(self, stack: nn.Module, tokens: Tensor, lengths: Tensor, check: Callable[[], None]) -> Tensor:
        """The pooled hidden vector of every row, (rows, units). Without gradients long texts are read in parts."""
        steps, rows = tokens.shape
        at_once = steps if torch.is_grad_enabled() else max(1, min(PART, self.options.most_tokens // rows))
        pool = Pool(self.options.pooling, lengths)
        carried: _Carried = None
        for begin in range(0, steps, at_once):
            check()
            embedded = self.dropout(self.embedding(tokens[begin : begin + at_once]))
            hidden, carried = stack(embedded, carried)
            pool.add(hidden, begin)
        return pool.result()


class Dropout(nn.Module):
    """torch's own draws one number at a time on a CPU, a tenth of all that a fit takes; this draws 16 bits for each."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, inputs: Tensor) -> Tensor:
        """Of the same shape."""
        if not self.training or self.probability == 0.0:
            return inputs
        draws = torch.empty((inputs.numel() + 3) // 4, dtype=torch.int64, device=inputs.device).random_(-(2**63), None)
        numbers = draws.view(torch.int16)[: inputs.numel()].view(inputs.shape)
        dropped = min(round(self.probability * 2**16), 2**16 - 1)  # of the 2^16 numbers
        kept = numbers >= dropped - 2**15
        return inputs * kept.to(inputs.dtype).mul_(2**16 / (2**16 - dropped))


class Pool:
    """One vector of the hidden vectors of every row, of which parts are added one after another."""

    def __init__(self, pooling: Pooling, lengths: Tensor) -> None:
        """lengths: (rows,)."""
        self._pooling = pooling
        self._lengths = lengths
        self._found: Tensor | None = None

    def add(self, hidden: Tensor, begin: int) -> None:
        """hidden: (steps, rows, units), the first of them of step `begin`."""
        steps = torch.arange(begin, begin + len(hidden), device=hidden.device)[:, None]  # (steps, 1)
        if self._pooling == "last":
            here = (self._lengths - 1 - begin).clamp(0, len(hidden) - 1)
            part = hidden.gather(0, here[None, :, None].expand(1, -1, hidden.shape[2]))[0]  # (rows, units)
            ends = ((self._lengths > begin) & (self._lengths <= begin + len(hidden)))[:, None]
            self._found = part if self._found is None else torch.where(ends, part, self._found)
            return
        outside = (steps >= self._lengths)[:, :, None]  # (steps, rows, 1)
        if self._pooling == "mean":
            part = hidden.masked_fill(outside, 0).sum(0)
            self._found = part if self._found is None else self._found + part
        else:
            part = hidden.masked_fill(outside, -torch.inf).amax(0)
            self._found = part if self._found is None else torch.maximum(self._found, part)

    def result(self) -> Tensor:
        """(rows, units)."""
        if self._found is None:
            raise ValueError("nothing was added")
        return self._found / self._lengths[:, None] if self._pooling == "mean" else self._found


class TorchStack(nn.Module):
    """Layers of torch's GRU, LSTM or RNN."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        between = options.dropout if options.layers > 1 else 0.0
        self.cell = _TORCH[options.cell](options.embedding, options.units, options.layers, dropout=between)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        units, cell = self.options.units, self.options.cell
        for name, parameter in self.cell.named_parameters():
            if "bias" in name:
                parameter.zero_()
                if cell == "lstm" and "bias_ih" in name:
                    parameter[units : 2 * units] = _FORGET_BIAS
            else:
                for block in torch.split(parameter, units):
                    _fill(block, self.options, recurrent="_hh_" in name, generator=generator)

    def forward(self, embedded: Tensor, carried: _Carried) -> tuple[Tensor, _Carried]:
        """embedded: (steps, rows, embedding) -> hidden vectors of the last layer, (steps, rows, units)."""
        options = self.options
        if options.steepness == 1.0:
            state = carried if carried is None or options.cell == "lstm" else carried[0]
            hidden, state = self.cell(embedded, state)
            return hidden, state if isinstance(state, tuple) else (state,)
        if carried is None:
            zeros = embedded.new_zeros(options.layers, embedded.shape[1], options.units)
            carried = (zeros, zeros) if options.cell == "lstm" else (zeros,)
        found = _FUNCTION[options.cell](
            embedded,
            carried if options.cell == "lstm" else carried[0],
            list(self._steepened()),
            True,
            options.layers,
            self.cell.dropout,
            self.training,
            False,
            False,
        )
        return found[0], found[1:]

    def _steepened(self) -> Iterator[Tensor]:
        """σ(s*a) for σ(a): being linear, s is folded into the weights of the gates."""
        without = _TANH_BLOCK[self.options.cell]
        for parameter in self.cell.parameters():
            scale = torch.full((len(parameter) // self.options.units, 1), self.options.steepness)
            scale[without] = 1.0
            rows = scale.to(parameter).expand(-1, self.options.units).reshape(-1)
            yield parameter * (rows if parameter.dim() == 1 else rows[:, None])


class MultiplicativeStack(nn.Module):
    """Layers of the mLSTM (model/network/cells.py), without weight norm."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        inputs = [options.embedding] + [options.units] * (options.layers - 1)
        self.layers = nn.ModuleList(MultiplicativeLayer(options, size) for size in inputs)
        self.dropout = Dropout(options.dropout)

    def reset(self, generator: torch.Generator) -> None:
        for layer in self.layers:
            layer.reset(generator)  # type: ignore[operator]

    def forward(self, embedded: Tensor, carried: _Carried) -> tuple[Tensor, _Carried]:
        """As of `TorchStack`."""
        hidden, states = embedded, []
        for number, layer in enumerate(self.layers):
            before = None if carried is None else State(*carried[2 * number : 2 * number + 2])
            hidden, state = layer(self.dropout(hidden) if number else hidden, before)
            states += [*state]
        return hidden, tuple(states)


class MultiplicativeLayer(nn.Module):
    """Its chain looks the inputs of a byte up in a table of 256; here every step of every row has a line of its own."""

    def __init__(self, options: Options, inputs: int) -> None:
        super().__init__()
        units = options.units
        self.options = options
        self.wx = nn.Parameter(torch.empty(inputs, 4 * units))
        self.wh = nn.Parameter(torch.empty(units, 4 * units))
        self.wmx = nn.Parameter(torch.empty(inputs, units))
        self.wmh = nn.Parameter(torch.empty(units, units))
        self.b = nn.Parameter(torch.empty(4 * units))
        self.window = _window()

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        units = self.options.units
        for matrix, recurrent in ((self.wx, False), (self.wh, True), (self.wmh, True)):
            for block in torch.split(matrix, units, dim=1):
                _fill(block.t(), self.options, recurrent, generator)
        # x·Wmx is a factor of every product with h, which must be about 1 for anything to be carried.
        self.wmx.normal_(0.0, 1 / (EMBEDDING_STD * self.wmx.shape[0] ** 0.5), generator=generator)
        self.b.zero_()
        self.b[units : 2 * units] = _FORGET_BIAS

    def forward(self, inputs: Tensor, before: State | None) -> tuple[Tensor, State]:
        """inputs: (steps, rows, inputs) -> hidden vectors, (steps, rows, units), and the state after them."""
        steps, rows, _ = inputs.shape
        units, steepness = self.options.units, self.options.steepness
        flat = inputs.flatten(0, 1)
        scale = torch.ones(4 * units, device=inputs.device)
        scale[: 3 * units] = steepness
        weights = CellWeights((flat @ self.wx + self.b) * scale, self.wh * scale, flat @ self.wmx, self.wmh)
        if before is None:
            zeros = inputs.new_zeros(rows, units)
            before = State(zeros, zeros.clone())
        lines = torch.arange(steps * rows, device=inputs.device).view(steps, rows)
        # Without gradients memory of its own: any thread may predict.
        window = self.window if torch.is_grad_enabled() else _window()
        return window.run(weights, lines, before)


def _window() -> Window:
    return Window("mlstm", torch.float32, fuse=False)


def _fill(block: Tensor, options: Options, recurrent: bool, generator: torch.Generator) -> None:
    """Initialise the matrix of one gate, (units, inputs)."""
    if recurrent and options.initialization == "identity":
        nn.init.eye_(block)
    elif recurrent and options.initialization == "orthogonal":
        nn.init.orthogonal_(block, generator=generator)
    elif recurrent:
        bound = options.units**-0.5  # torch's own
        block.uniform_(-bound, bound, generator=generator)
    else:
        nn.init.xavier_uniform_(block, generator=generator)
