"""Steps of a block as Triton kernels: `TritonStep`, for CUDA.

With few rows a step is two kernels, each a product that ends in the element-wise work on its output, so that the step
costs little more than reading the weights once:

    m = (x·Wmx) * (h·Wmh)          mix_product
    c', h' from m·Wh and x·Wx + b  gate_product

A tile has the same shape whatever the number of rows, and rows that stand still count as zero: the result of a row
does not depend on the others. With more rows the library multiplies, and `mix` and `gate` (or `gru`) do the rest.
A sample is one kernel beside its product (sampling_kernel.py).

Every kernel looks up in the block's `row_params` (block.py) which byte a row reads, and leaves rows alone that do not
run. The last gate comes scaled by -2: tanh(x) = 1 - 2σ(-2x).
"""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import torch
import triton
import triton.language as tl

from engine import block as layout
from engine.block import Block, PlainStep, Trace
from engine.folded import FoldedModel
from engine.sampling_kernel import COMPARED, draw

_STEPS = tl.constexpr(layout.STEPS)
_READS = tl.constexpr(layout.READS)
_SUMS = tl.constexpr(layout.SUMS)
_HOLDS = tl.constexpr(layout.HOLDS)

_TILE_ROWS = 16  # the least that a tensor core multiplies
MANY_ROWS = _TILE_ROWS + 1  # from here on the library multiplies
_TILE_UNITS = 16  # of the outputs; few, so that a model of 2,048 units occupies most multiprocessors of a large device
_TILE_BYTES = 256  # of each output at once; all that is on its way then fits into 64 KiB of shared memory
_STAGES = 4  # parts of a product's depth that are on their way at once
_LINE = 1024  # units of a row that a program of an element-wise kernel makes


@triton.jit
def _running(row_params, at, row, rows, most_rows):
    """Which of the rows make step `at`."""
    return (row < rows) & (at < tl.load(row_params + _STEPS * most_rows + row, mask=row < rows, other=0))


@triton.jit
def _byte(row_params, text, last, at, row, running, most_rows):
    """The byte that each row reads: of its text, or sampled last."""
    reading = running & (at < tl.load(row_params + _READS * most_rows + row, mask=running, other=0))
    read = tl.load(text + at * most_rows + row, mask=reading, other=0).to(tl.int64)
    return tl.where(reading, read, tl.load(last + row, mask=running, other=0))


@triton.jit
def _product(x, weight, row, output, running, units: tl.constexpr, depth: tl.constexpr):
    """x·weight of a tile: rows of x (rows, units), outputs of weight (outputs, units)."""
    total = tl.zeros((row.shape[0], output.shape[0]), tl.float32)
    for begin in range(0, units, depth):
        place = begin + tl.arange(0, depth)
        if units % depth == 0:
            a = tl.load(x + row[:, None] * units + place[None, :], mask=running[:, None], other=0.0)
            b = tl.load(weight + output[:, None] * units + place[None, :])
        else:
            within = (place < units)[None, :]
            a = tl.load(x + row[:, None] * units + place[None, :], mask=running[:, None] & within, other=0.0)
            b = tl.load(weight + output[:, None] * units + place[None, :], mask=within, other=0.0)
        total = tl.dot(a, tl.trans(b), total, input_precision="ieee")
    return total


@triton.jit
def _clamp(held, row_params, row, place, mask, running, most_rows):
    """The values that units are held at, NaN for none; of a row that holds no unit nothing is loaded."""
    holding = mask & (tl.load(row_params + _HOLDS * most_rows + row, mask=running, other=0) != 0)
    return tl.load(held + place, mask=holding, other=float("nan"))


@triton.jit
def _before(input_table, byte, cell, place, unit, mask, units: tl.constexpr):
    """What the gates of LSTM and mLSTM take beside the product: x·Wx + b for each, and cell. All have one shape.

    Loaded ahead of the product, they are there when it is done.
    """
    x = input_table + byte * (4 * units) + unit
    i = tl.load(x, mask=mask, other=0.0).to(tl.float32)
    f = tl.load(x + units, mask=mask, other=0.0).to(tl.float32)
    o = tl.load(x + 2 * units, mask=mask, other=0.0).to(tl.float32)
    u = tl.load(x + 3 * units, mask=mask, other=0.0).to(tl.float32)
    return i, f, o, u, tl.load(cell + place, mask=mask, other=0.0)


@triton.jit
def _add_up(hidden_sum, out, row_params, row, place, mask, running, most_rows):
    """hidden_sum += out for the rows that keep a sum; for the others nothing is loaded nor stored."""
    summing = mask & (tl.load(row_params + _SUMS * most_rows + row, mask=running, other=0) != 0)
    before = tl.load(hidden_sum + place, mask=summing, other=0.0)
    tl.store(hidden_sum + place, before + out.to(tl.float64), mask=summing)


@triton.jit
def _after(i, f, o, u, old, clamp, cell, hidden, place, mask):
    """From the sums of the gates to the next cell and hidden, in place. Returns the hidden as it is stored."""
    new = tl.sigmoid(f) * old + tl.sigmoid(i) * (1 - 2 * tl.sigmoid(u))
    new = tl.where(clamp == clamp, clamp, new)  # NaN is no clamp
    tl.store(cell + place, new, mask=mask)
    out = (tl.sigmoid(o) * (1 - 2 * tl.sigmoid(-2 * new))).to(hidden.dtype.element_ty)
    tl.store(hidden + place, out, mask=mask)
    return out


@triton.jit(do_not_specialize=["offset", "rows", "most_rows"])
def mix_product(
    hidden, weight, table, mixed, row_params, text, last, offset, rows, most_rows,
    units: tl.constexpr, tile_rows: tl.constexpr, tile_units: tl.constexpr, depth: tl.constexpr,
):  # fmt: skip
    """mixed = (hidden·weight) * table[byte]. A program makes `tile_units` columns."""
    at = tl.load(row_params) + offset
    row = tl.arange(0, tile_rows)
    unit = tl.program_id(0) * tile_units + tl.arange(0, tile_units)
    running = _running(row_params, at, row, rows, most_rows)
    byte = _byte(row_params, text, last, at, row, running, most_rows)
    mask = running[:, None] & (unit < units)[None, :]
    factor = tl.load(table + byte[:, None] * units + unit[None, :], mask=mask, other=0.0).to(tl.float32)
    product = _product(hidden, weight, row, tl.minimum(unit, units - 1), running, units, depth)
    place = row[:, None] * units + unit[None, :]
    tl.store(mixed + place, (product * factor).to(mixed.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["offset", "rows", "most_rows"])
def gate_product(
    x, weight, input_table, cell, hidden, hidden_sum, held, row_params, text, last, offset, rows, most_rows,
    units: tl.constexpr, tile_rows: tl.constexpr, tile_units: tl.constexpr, depth: tl.constexpr,
):  # fmt: skip
    """cell and hidden after x·weight. A program makes the four gates of `tile_units` units. x is not hidden itself."""
    at = tl.load(row_params) + offset
    row = tl.arange(0, tile_rows)
    first = tl.program_id(0) * tile_units
    running = _running(row_params, at, row, rows, most_rows)
    byte = _byte(row_params, text, last, at, row, running, most_rows)
    unit = (first + tl.arange(0, tile_units))[None, :]
    mask = running[:, None] & (unit < units)
    place = row[:, None] * units + unit
    x_i, x_f, x_o, x_u, old = _before(input_table, byte[:, None], cell, place, unit, mask, units)
    clamp = _clamp(held, row_params, row[:, None], place, mask, running[:, None], most_rows)
    # The gates of a unit stand side by side in the tile, wherever they stand in memory.
    column = tl.arange(0, 4 * tile_units)
    output = (column % 4) * units + tl.minimum(first + column // 4, units - 1)
    product = _product(x, weight, row, output, running, units, depth)
    even, odd = tl.split(tl.reshape(product, (tile_rows, tile_units, 2, 2)))
    i, o = tl.split(even)
    f, u = tl.split(odd)
    out = _after(i + x_i, f + x_f, o + x_o, u + x_u, old, clamp, cell, hidden, place, mask)
    _add_up(hidden_sum, out, row_params, row[:, None], place, mask, running[:, None], most_rows)


@triton.jit(do_not_specialize=["offset", "rows", "most_rows"])
def mix(product, table, row_params, text, last, offset, rows, most_rows, units: tl.constexpr, tile_units: tl.constexpr):
    """product *= table[byte]. A program makes `tile_units` columns of a row."""
    at = tl.load(row_params) + offset
    row = tl.program_id(0)
    running = _running(row_params, at, row, rows, most_rows)
    byte = _byte(row_params, text, last, at, row, running, most_rows)
    unit = tl.program_id(1) * tile_units + tl.arange(0, tile_units)
    mask = running & (unit < units)
    factor = tl.load(table + byte * units + unit, mask=mask, other=0.0).to(tl.float32)
    mixed = tl.load(product + row * units + unit, mask=mask, other=0.0).to(tl.float32) * factor
    tl.store(product + row * units + unit, mixed.to(product.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["offset", "rows", "most_rows"])
def gate(
    product, input_table, cell, hidden, hidden_sum, held, row_params, text, last, offset, rows, most_rows,
    units: tl.constexpr, tile_units: tl.constexpr,
):  # fmt: skip
    """cell and hidden after the product. A program makes `tile_units` units of a row."""
    at = tl.load(row_params) + offset
    row = tl.program_id(0)
    running = _running(row_params, at, row, rows, most_rows)
    byte = _byte(row_params, text, last, at, row, running, most_rows)
    unit = tl.program_id(1) * tile_units + tl.arange(0, tile_units)
    mask = running & (unit < units)
    z = product + row * 4 * units + unit
    i = tl.load(z, mask=mask, other=0.0).to(tl.float32)
    f = tl.load(z + units, mask=mask, other=0.0).to(tl.float32)
    o = tl.load(z + 2 * units, mask=mask, other=0.0).to(tl.float32)
    u = tl.load(z + 3 * units, mask=mask, other=0.0).to(tl.float32)
    place = row * units + unit
    x_i, x_f, x_o, x_u, old = _before(input_table, byte, cell, place, unit, mask, units)
    clamp = _clamp(held, row_params, row, place, mask, running, most_rows)
    out = _after(i + x_i, f + x_f, o + x_o, u + x_u, old, clamp, cell, hidden, place, mask)
    _add_up(hidden_sum, out, row_params, row, place, mask, running, most_rows)


@triton.jit(do_not_specialize=["offset", "rows", "most_rows"])
def gru(
    product, input_table, cell, hidden, hidden_sum, held, row_params, text, last, offset, rows, most_rows,
    units: tl.constexpr, tile_units: tl.constexpr,
):  # fmt: skip
    """The state after h·Wh. A program makes `tile_units` units of a row."""
    at = tl.load(row_params) + offset
    row = tl.program_id(0)
    running = _running(row_params, at, row, rows, most_rows)
    byte = _byte(row_params, text, last, at, row, running, most_rows)
    unit = tl.program_id(1) * tile_units + tl.arange(0, tile_units)
    mask = running & (unit < units)
    h = product + row * 3 * units + unit
    x = input_table + byte * (3 * units) + unit
    x_r = tl.load(x, mask=mask, other=0.0).to(tl.float32)
    x_z = tl.load(x + units, mask=mask, other=0.0).to(tl.float32)
    x_n = tl.load(x + 2 * units, mask=mask, other=0.0).to(tl.float32)
    r = tl.sigmoid(x_r + tl.load(h, mask=mask, other=0.0).to(tl.float32))
    z = tl.sigmoid(x_z + tl.load(h + units, mask=mask, other=0.0).to(tl.float32))
    n = 1 - 2 * tl.sigmoid(x_n + r * tl.load(h + 2 * units, mask=mask, other=0.0).to(tl.float32))
    place = row * units + unit
    new = n + z * (tl.load(cell + place, mask=mask, other=0.0) - n)
    clamp = _clamp(held, row_params, row, place, mask, running, most_rows)
    new = tl.where(clamp == clamp, clamp, new)
    out = new.to(hidden.dtype.element_ty)
    tl.store(cell + place, new, mask=mask)
    tl.store(hidden + place, out, mask=mask)
    _add_up(hidden_sum, out, row_params, row, place, mask, running, most_rows)


@triton.jit(do_not_specialize=["offset"])
def record(cell, units, values, row_params, offset, count: tl.constexpr, tile: tl.constexpr):
    """values[step] = cell[units]."""
    at = tl.load(row_params) + offset
    number = tl.program_id(0) * tile + tl.arange(0, tile)
    place = tl.load(units + number, mask=number < count, other=0)
    value = tl.load(cell + place, mask=number < count, other=0.0)
    tl.store(values + at * count + number, value, mask=number < count)


class TritonStep(PlainStep):
    """As PlainStep."""

    def __init__(self, model: FoldedModel) -> None:
        super().__init__(model)
        self._units = model.units
        self._depth = _TILE_BYTES // model.dtype.itemsize
        # As in training (model/network/chains.py) it has the type of the products: half the bytes in bfloat16.
        self._input_table = self.weights.input_table.to(model.dtype)

    def advance(self, block: Block, rows: int, offset: int) -> None:
        weights, units = self.weights, self._units
        reading = (block.row_params, block.text, block.last, offset, rows, block.row_params.shape[1])
        state = (block.cell, block.hidden, block.hidden_sum, block.held)
        hidden = block.hidden[:rows]
        grid = (rows, triton.cdiv(units, _LINE))
        if self.cell_name == "gru":
            gru[grid](weights.recurrent(hidden), self._input_table, *state, *reading, units, _LINE)
            return
        if weights.multiplier is not None and weights.multiplier_table is not None:
            if rows <= _TILE_ROWS:
                few = (triton.cdiv(units, _TILE_UNITS),)
                tile = (_TILE_ROWS, _TILE_UNITS)
                mixed = torch.empty_like(hidden)
                mixing = (hidden, weights.multiplier.transposed, weights.multiplier_table, mixed)
                mix_product[few](*mixing, *reading, units, *tile, 2 * self._depth, num_stages=_STAGES)
                gating = (mixed, weights.recurrent.transposed, self._input_table)
                gate_product[few](*gating, *state, *reading, units, *tile, self._depth, num_stages=_STAGES)
                return
            hidden = weights.multiplier(hidden)
            mix[grid](hidden, weights.multiplier_table, *reading, units, _LINE)
        gate[grid](weights.recurrent(hidden), self._input_table, *state, *reading, units, _LINE)

    def record(self, block: Block, trace: Trace, offset: int) -> None:
        count = trace.units.shape[0]
        grid = (triton.cdiv(count, _LINE),)
        record[grid](block.cell, trace.units, trace.values, block.row_params, offset, count, _LINE)

    def draw(self, block: Block, rows: int, offset: int) -> None:
        given = (self.weights.output(block.hidden[:rows]), self.weights.output_b)
        results = (block.last, block.sampled, block.log_probability)
        draw[(rows,)](*given, *results, block.row_params, offset, block.row_params.shape[1], COMPARED)
