"""Steps of a block that a CUDA graph can replay: `Block` holds all their inputs, `PlainStep` makes one in torch.

A graph is a fixed list of kernels over fixed memory. So what differs from row to row and from block to block (which
byte comes next, whether the row has ended, whether it samples) stands in tensors, and no step asks the host anything.
A row that has ended stands still: it is computed like the others, and its result is dropped.

kernels.py makes the same steps with less memory traffic.
"""

import torch
from torch import Tensor

from engine.folded import FoldedModel
from engine.sampling import Choice, sample
from engine.scoring import bits

# Lines of `Block.row_params`; the last two hold the bits of float64.
STEP, SLOT, STEPS, READS, SUMS, HOLDS, SAMPLES_FROM, FIRST_DRAW, SEED, TOP_K, TEMPERATURE, TOP_P = range(12)
ROW_PARAMS = 12


class Block:
    """The memory of a block of up to `rows` rows and `steps` steps. A block of fewer uses the first of each."""

    def __init__(self, model: FoldedModel, rows: int, steps: int) -> None:
        device = model.device
        # (ROW_PARAMS, rows): of every row its slot, its steps, how many of them read text, whether (1) it adds up its
        # hidden vectors and whether it holds units, the first step whose output is sampled, the number of that draw,
        # and its seed and limits. Line STEP holds one number, in its first place: the steps made so far.
        self.row_params = torch.zeros(ROW_PARAMS, rows, dtype=torch.int64, device=device)
        self.text = torch.zeros(steps, rows, dtype=torch.uint8, device=device)
        self.cell, self.hidden = model.zero_state(rows)
        self.hidden_sum = model.zero_sum(rows)
        self.bits = torch.zeros(rows, dtype=torch.float64, device=device)  # the sum of the scores (scoring.py)
        self.scored = torch.zeros(steps, rows, dtype=torch.bool, device=device)  # whether the byte of `text` is
        self.last = torch.zeros(rows, dtype=torch.int64, device=device)  # byte sampled last
        self.held = torch.full((rows, model.units), torch.nan, device=device)  # clamps; NaN leaves a unit free
        self.sampled = torch.zeros(steps, rows, dtype=torch.uint8, device=device)
        self.log_probability = torch.zeros(steps, rows, device=device)
        self.made = self.row_params[STEP, :1]


class Trace:
    """Units to record at every step. units: places in the flat cells of the block; values: (steps, units)."""

    def __init__(self, units: int, steps: int, device: torch.device) -> None:
        self.units = torch.zeros(units, dtype=torch.int64, device=device)
        self.values = torch.zeros(steps, units, device=device)


class PlainStep:
    """Step number `block.made + offset` of the first `rows` rows, in place."""

    def __init__(self, model: FoldedModel) -> None:
        self.weights = model.weights
        self.cell_name = model.architecture.cell

    def advance(self, block: Block, rows: int, offset: int) -> None:
        """Read a byte: cell and hidden of the rows that run, and the sum of those that keep one."""
        at = block.made + offset  # (1,)
        byte = torch.where(
            at < block.row_params[READS, :rows], block.text.index_select(0, at)[0, :rows].long(), block.last[:rows]
        )
        cell, hidden, held = block.cell[:rows], block.hidden[:rows], block.held[:rows]
        running = (at < block.row_params[STEPS, :rows])[:, None]
        # The operations are those of FoldedModel.step, in its order.
        if self.cell_name == "gru":
            new = self._gru(byte, cell, hidden)
            new = torch.where(held.isnan(), new, held)
            out = new
        else:
            i, f, o, u = self._gates(byte, hidden).chunk(4, dim=1)
            new = torch.addcmul(i, f, cell).addcmul_(i, u, value=-2)
            new = torch.where(held.isnan(), new, held)
            out = torch.addcmul(o, o, torch.sigmoid(new * -2), value=-2)
        cell.copy_(torch.where(running, new, cell))
        hidden.copy_(torch.where(running, out.to(hidden.dtype), hidden))
        summing = running & (block.row_params[SUMS, :rows] != 0)[:, None]
        block.hidden_sum[:rows].add_(torch.where(summing, hidden, 0))

    def record(self, block: Block, trace: Trace, offset: int) -> None:
        """Write the traced units of all rows."""
        values = block.cell.view(-1).index_select(0, trace.units)
        trace.values.index_copy_(0, block.made + offset, values[None])

    def score(self, block: Block, rows: int, offset: int) -> None:
        """Add the scores of the bytes that are read next, before `advance`."""
        at = block.made + offset
        byte = block.text.index_select(0, at)[0, :rows].long()
        found = bits(self._logits(block.hidden[:rows]), byte)
        block.bits[:rows].add_(torch.where(block.scored.index_select(0, at)[0, :rows], found, 0.0))

    def draw(self, block: Block, rows: int, offset: int) -> None:
        """Sample the rows that generate at this step."""
        at = block.made + offset
        row_params = block.row_params[:, :rows]
        choice = Choice(
            row_params[SEED],
            row_params[FIRST_DRAW] + at - row_params[SAMPLES_FROM],
            row_params[TEMPERATURE].view(torch.float64).float(),
            row_params[TOP_K],
            row_params[TOP_P].view(torch.float64).float(),
        )
        byte, log_probability = sample(self._logits(block.hidden[:rows]), choice)
        chosen = (at >= row_params[SAMPLES_FROM]) & (at < row_params[STEPS])
        block.last[:rows] = torch.where(chosen, byte, block.last[:rows])
        block.sampled[:, :rows].index_copy_(0, at, byte.to(torch.uint8)[None])
        block.log_probability[:, :rows].index_copy_(0, at, log_probability[None])

    def _logits(self, hidden: Tensor) -> Tensor:
        """(rows, units) -> (rows, 256) float32."""
        return self.weights.output(hidden).float().add_(self.weights.output_b)

    def _gates(self, byte: Tensor, hidden: Tensor) -> Tensor:
        weights = self.weights
        if weights.multiplier is not None and weights.multiplier_table is not None:
            hidden = weights.multiplier.times(hidden, weights.multiplier_table.index_select(0, byte))
        return weights.input_table.index_select(0, byte).add_(weights.recurrent(hidden)).sigmoid_()

    def _gru(self, byte: Tensor, cell: Tensor, hidden: Tensor) -> Tensor:
        units = cell.shape[1]
        x = self.weights.input_table.index_select(0, byte)  # (rows, 3 * units)
        product = self.weights.recurrent(hidden)  # (rows, 3 * units)
        r, z = (x[:, : 2 * units] + product[:, : 2 * units]).sigmoid_().chunk(2, dim=1)
        update = torch.addcmul(x[:, 2 * units :], r, product[:, 2 * units :].float()).sigmoid_().mul_(-2).add_(1)
        return torch.lerp(update, cell, z)
