"""Steps of a block as Triton kernels: `TritonStep`, for CUDA.

With few rows a step is two kernels, each a product that ends in the element-wise work on what it gives, so that all
there is to it is reading the weights once:

    m = (x·Wmx) * (h·Wmh)          mix_product
    c', h' from m·Wh and x·Wx + b  gate_product

There a tile has the same shape whatever the number of rows, and rows that stand still count as zero: what a row gives
does not depend on the others. With more rows the library multiplies, and `mix` and `gate` (or `gru`) do the rest.
A sample is one kernel beside its product.

Every kernel asks the block's plan (block.py) which byte a row reads, and leaves alone the rows that do not run. The
last gate comes scaled by -2: tanh(x) = 1 - 2σ(-2x).
"""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import torch
import triton
import triton.language as tl

from engine import block as plan_of
from engine.block import Block, PlainStep, Trace
from engine.folded import FoldedModel

_STEPS = tl.constexpr(plan_of.STEPS)
_READS = tl.constexpr(plan_of.READS)
_SUMS = tl.constexpr(plan_of.SUMS)
_SAMPLES_FROM = tl.constexpr(plan_of.SAMPLES_FROM)
_FIRST_DRAW = tl.constexpr(plan_of.FIRST_DRAW)
_SEED = tl.constexpr(plan_of.SEED)
_TOP_K = tl.constexpr(plan_of.TOP_K)
_TEMPERATURE = tl.constexpr(plan_of.TEMPERATURE)
_TOP_P = tl.constexpr(plan_of.TOP_P)

_TILE_ROWS = 16  # the least that a tensor core multiplies
_TILE_UNITS = 16  # of the outputs; few, so that a model of 2,048 units occupies most multiprocessors of a large device
_TILE_BYTES = 256  # of each output at once; all that is on its way then fits into 64 KiB of shared memory
_STAGES = 4  # parts of a product's depth that are on their way at once
_LINE = 1024  # units of a row that a program of an element-wise kernel makes
_BYTES = tl.constexpr(256)
_COMPARED = 16  # bytes that a sample compares with all others at once


@triton.jit
def _running(plan, at, row, rows, most_rows):
    """Which of the rows make step `at`."""
    return (row < rows) & (at < tl.load(plan + _STEPS * most_rows + row, mask=row < rows, other=0))


@triton.jit
def _byte(plan, text, last, at, row, running, most_rows):
    """The byte that each row reads: of its text, or sampled last."""
    reading = running & (at < tl.load(plan + _READS * most_rows + row, mask=running, other=0))
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
def _before(input_table, byte, cell, held, row, unit, mask, units: tl.constexpr):
    """What the gates of LSTM and mLSTM take beside the product: x·Wx + b for each, cell, and clamp. All have one shape.

    Loaded ahead of the product, they are there when it is done.
    """
    x = input_table + byte * (4 * units) + unit
    i = tl.load(x, mask=mask, other=0.0)
    f = tl.load(x + units, mask=mask, other=0.0)
    o = tl.load(x + 2 * units, mask=mask, other=0.0)
    u = tl.load(x + 3 * units, mask=mask, other=0.0)
    old = tl.load(cell + row * units + unit, mask=mask, other=0.0)
    return i, f, o, u, old, tl.load(held + row * units + unit, mask=mask, other=0.0)


@triton.jit
def _add_up(hidden_sum, out, plan, row, place, mask, running, most_rows):
    """hidden_sum += out for the rows that keep a sum; for the others nothing is loaded nor stored."""
    summing = mask & (tl.load(plan + _SUMS * most_rows + row, mask=running, other=0) != 0)
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
    hidden, weight, table, mixed, plan, text, last, offset, rows, most_rows,
    units: tl.constexpr, tile_rows: tl.constexpr, tile_units: tl.constexpr, depth: tl.constexpr,
):  # fmt: skip
    """mixed = (hidden·weight) * table[byte]. A program makes `tile_units` columns."""
    at = tl.load(plan) + offset
    row = tl.arange(0, tile_rows)
    unit = tl.program_id(0) * tile_units + tl.arange(0, tile_units)
    running = _running(plan, at, row, rows, most_rows)
    byte = _byte(plan, text, last, at, row, running, most_rows)
    mask = running[:, None] & (unit < units)[None, :]
    factor = tl.load(table + byte[:, None] * units + unit[None, :], mask=mask, other=0.0).to(tl.float32)
    product = _product(hidden, weight, row, tl.minimum(unit, units - 1), running, units, depth)
    place = row[:, None] * units + unit[None, :]
    tl.store(mixed + place, (product * factor).to(mixed.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["offset", "rows", "most_rows"])
def gate_product(
    x, weight, input_table, cell, hidden, hidden_sum, held, plan, text, last, offset, rows, most_rows,
    units: tl.constexpr, tile_rows: tl.constexpr, tile_units: tl.constexpr, depth: tl.constexpr,
):  # fmt: skip
    """cell and hidden after x·weight. A program makes the four gates of `tile_units` units. x is not hidden itself."""
    at = tl.load(plan) + offset
    row = tl.arange(0, tile_rows)
    first = tl.program_id(0) * tile_units
    running = _running(plan, at, row, rows, most_rows)
    byte = _byte(plan, text, last, at, row, running, most_rows)
    unit = (first + tl.arange(0, tile_units))[None, :]
    mask = running[:, None] & (unit < units)
    x_i, x_f, x_o, x_u, old, clamp = _before(input_table, byte[:, None], cell, held, row[:, None], unit, mask, units)
    # The gates of a unit stand side by side in the tile, wherever they stand in memory.
    column = tl.arange(0, 4 * tile_units)
    output = (column % 4) * units + tl.minimum(first + column // 4, units - 1)
    product = _product(x, weight, row, output, running, units, depth)
    even, odd = tl.split(tl.reshape(product, (tile_rows, tile_units, 2, 2)))
    i, o = tl.split(even)
    f, u = tl.split(odd)
    place = row[:, None] * units + unit
    out = _after(i + x_i, f + x_f, o + x_o, u + x_u, old, clamp, cell, hidden, place, mask)
    _add_up(hidden_sum, out, plan, row[:, None], place, mask, running[:, None], most_rows)


@triton.jit(do_not_specialize=["offset", "rows", "most_rows"])
def mix(product, table, plan, text, last, offset, rows, most_rows, units: tl.constexpr, tile_units: tl.constexpr):
    """product *= table[byte]. A program makes `tile_units` columns of a row."""
    at = tl.load(plan) + offset
    row = tl.program_id(0)
    running = _running(plan, at, row, rows, most_rows)
    byte = _byte(plan, text, last, at, row, running, most_rows)
    unit = tl.program_id(1) * tile_units + tl.arange(0, tile_units)
    mask = running & (unit < units)
    factor = tl.load(table + byte * units + unit, mask=mask, other=0.0).to(tl.float32)
    mixed = tl.load(product + row * units + unit, mask=mask, other=0.0).to(tl.float32) * factor
    tl.store(product + row * units + unit, mixed.to(product.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["offset", "rows", "most_rows"])
def gate(
    product, input_table, cell, hidden, hidden_sum, held, plan, text, last, offset, rows, most_rows,
    units: tl.constexpr, tile_units: tl.constexpr,
):  # fmt: skip
    """cell and hidden after the product. A program makes `tile_units` units of a row."""
    at = tl.load(plan) + offset
    row = tl.program_id(0)
    running = _running(plan, at, row, rows, most_rows)
    byte = _byte(plan, text, last, at, row, running, most_rows)
    unit = tl.program_id(1) * tile_units + tl.arange(0, tile_units)
    mask = running & (unit < units)
    z = product + row * 4 * units + unit
    i = tl.load(z, mask=mask, other=0.0).to(tl.float32)
    f = tl.load(z + units, mask=mask, other=0.0).to(tl.float32)
    o = tl.load(z + 2 * units, mask=mask, other=0.0).to(tl.float32)
    u = tl.load(z + 3 * units, mask=mask, other=0.0).to(tl.float32)
    x_i, x_f, x_o, x_u, old, clamp = _before(input_table, byte, cell, held, row, unit, mask, units)
    place = row * units + unit
    out = _after(i + x_i, f + x_f, o + x_o, u + x_u, old, clamp, cell, hidden, place, mask)
    _add_up(hidden_sum, out, plan, row, place, mask, running, most_rows)


@triton.jit(do_not_specialize=["offset", "rows", "most_rows"])
def gru(
    product, input_table, cell, hidden, hidden_sum, held, plan, text, last, offset, rows, most_rows,
    units: tl.constexpr, tile_units: tl.constexpr,
):  # fmt: skip
    """The state after h·Wh. A program makes `tile_units` units of a row."""
    at = tl.load(plan) + offset
    row = tl.program_id(0)
    running = _running(plan, at, row, rows, most_rows)
    byte = _byte(plan, text, last, at, row, running, most_rows)
    unit = tl.program_id(1) * tile_units + tl.arange(0, tile_units)
    mask = running & (unit < units)
    h = product + row * 3 * units + unit
    x = input_table + byte * (3 * units) + unit
    r = tl.sigmoid(tl.load(x, mask=mask, other=0.0) + tl.load(h, mask=mask, other=0.0).to(tl.float32))
    z = tl.sigmoid(tl.load(x + units, mask=mask, other=0.0) + tl.load(h + units, mask=mask, other=0.0).to(tl.float32))
    h_n = tl.load(h + 2 * units, mask=mask, other=0.0).to(tl.float32)
    n = 1 - 2 * tl.sigmoid(tl.load(x + 2 * units, mask=mask, other=0.0) + r * h_n)
    place = row * units + unit
    new = n + z * (tl.load(cell + place, mask=mask, other=0.0) - n)
    clamp = tl.load(held + place, mask=mask, other=0.0)
    new = tl.where(clamp == clamp, clamp, new)
    out = new.to(hidden.dtype.element_ty)
    tl.store(cell + place, new, mask=mask)
    tl.store(hidden + place, out, mask=mask)
    _add_up(hidden_sum, out, plan, row, place, mask, running, most_rows)


@triton.jit(do_not_specialize=["offset"])
def record(cell, units, values, plan, offset, count: tl.constexpr, tile: tl.constexpr):
    """values[step] = cell[units]."""
    at = tl.load(plan) + offset
    number = tl.program_id(0) * tile + tl.arange(0, tile)
    place = tl.load(units + number, mask=number < count, other=0)
    value = tl.load(cell + place, mask=number < count, other=0.0)
    tl.store(values + at * count + number, value, mask=number < count)


@triton.jit
def _scramble(value):
    """splitmix64's finalizer, as in sampling.py."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB
    return value ^ (value >> 31)


@triton.jit
def _uniform(seed, position):
    """Draw `position` of `seed`, float64 in [0, 1)."""
    golden = tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
    seed, position = seed.to(tl.uint64, bitcast=True), position.to(tl.uint64, bitcast=True)
    mixed = _scramble(_scramble(seed + golden) + (position + 1) * golden)
    return (mixed >> 11).to(tl.float64) * (1.0 / 9007199254740992.0)


@triton.jit(do_not_specialize=["offset", "most_rows"])
def draw(product, output_b, last, sampled, log_probability, plan, offset, most_rows, tile: tl.constexpr):
    """Sample as sampling.py does, a row a program: what stands ahead of a byte is counted instead of sorted."""
    row = tl.program_id(0)
    at = tl.load(plan) + offset
    first = tl.load(plan + _SAMPLES_FROM * most_rows + row)
    if (at >= first) & (at < tl.load(plan + _STEPS * most_rows + row)):
        temperature = tl.load(plan + _TEMPERATURE * most_rows + row).to(tl.float64, bitcast=True).to(tl.float32)
        top_p = tl.load(plan + _TOP_P * most_rows + row).to(tl.float64, bitcast=True).to(tl.float32)
        greedy = temperature < 1e-4
        divisor = tl.where(greedy, 1.0, temperature)
        byte = tl.arange(0, _BYTES)
        logit = tl.load(product + row * _BYTES + byte).to(tl.float32) + tl.load(output_b + byte)
        scaled = tl.div_rn(logit, divisor)
        largest = tl.max(scaled, 0)
        weight = tl.exp((scaled - largest).to(tl.float64))
        total = tl.sum(weight, 0)

        rank = tl.zeros((_BYTES,), tl.int32)
        before = tl.zeros((_BYTES,), tl.float64)
        for begin in range(0, _BYTES, tile):
            other = begin + tl.arange(0, tile)
            other_logit = tl.load(product + row * _BYTES + other).to(tl.float32) + tl.load(output_b + other)
            other_scaled = tl.div_rn(other_logit, divisor)
            is_ahead = (other_scaled[:, None] > scaled[None, :]) | (
                (other_scaled[:, None] == scaled[None, :]) & (other[:, None] < byte[None, :])
            )
            rank += tl.sum(is_ahead.to(tl.int32), 0)
            probability = tl.exp((other_scaled - largest).to(tl.float64)) / total
            before += tl.sum(tl.where(is_ahead, probability[:, None], 0.0), 0)

        top_k = tl.where(greedy, 1, tl.load(plan + _TOP_K * most_rows + row))
        keep = (rank < top_k) & ((before < top_p.to(tl.float64)) | (rank == 0))
        cumulative = before + weight / total
        kept = tl.sum(tl.where(keep, weight / total, 0.0), 0)
        number = tl.load(plan + _FIRST_DRAW * most_rows + row) + at - first
        threshold = _uniform(tl.load(plan + _SEED * most_rows + row), number) * kept
        chosen = tl.minimum(
            tl.sum((keep & (cumulative <= threshold)).to(tl.int32), 0), tl.sum(keep.to(tl.int32), 0) - 1
        )
        choice = tl.sum(tl.where(rank == chosen, byte, 0), 0)
        top = tl.max(logit, 0)
        normalizer = top + tl.log(tl.sum(tl.exp(logit - top), 0))
        tl.store(last + row, choice.to(tl.int64))
        tl.store(sampled + at * most_rows + row, choice.to(tl.uint8))
        tl.store(log_probability + at * most_rows + row, tl.sum(tl.where(byte == choice, logit, 0.0), 0) - normalizer)


class TritonStep(PlainStep):
    """As PlainStep."""

    def __init__(self, model: FoldedModel) -> None:
        super().__init__(model)
        self._units = model.units
        self._depth = _TILE_BYTES // model.dtype.itemsize

    def advance(self, block: Block, rows: int, offset: int) -> None:
        weights, units = self.weights, self._units
        reading = (block.plan, block.text, block.last, offset, rows, block.plan.shape[1])
        state = (block.cell, block.hidden, block.hidden_sum, block.held)
        hidden = block.hidden[:rows]
        grid = (rows, triton.cdiv(units, _LINE))
        if self.cell_name == "gru":
            gru[grid](weights.recurrent(hidden), weights.input_table, *state, *reading, units, _LINE)
            return
        if weights.multiplier is not None and weights.multiplier_table is not None:
            if rows <= _TILE_ROWS:
                few = (triton.cdiv(units, _TILE_UNITS),)
                tile = (_TILE_ROWS, _TILE_UNITS)
                mixed = torch.empty_like(hidden)
                mixing = (hidden, weights.multiplier.transposed, weights.multiplier_table, mixed)
                mix_product[few](*mixing, *reading, units, *tile, 2 * self._depth, num_stages=_STAGES)
                gating = (mixed, weights.recurrent.transposed, weights.input_table)
                gate_product[few](*gating, *state, *reading, units, *tile, self._depth, num_stages=_STAGES)
                return
            hidden = weights.multiplier(hidden)
            mix[grid](hidden, weights.multiplier_table, *reading, units, _LINE)
        gate[grid](weights.recurrent(hidden), weights.input_table, *state, *reading, units, _LINE)

    def record(self, block: Block, trace: Trace, offset: int) -> None:
        count = trace.units.shape[0]
        grid = (triton.cdiv(count, _LINE),)
        record[grid](block.cell, trace.units, trace.values, block.plan, offset, count, _LINE)

    def draw(self, block: Block, rows: int, offset: int) -> None:
        given = (self.weights.output(block.hidden[:rows]), self.weights.output_b)
        results = (block.last, block.sampled, block.log_probability)
        draw[(rows,)](*given, *results, block.plan, offset, block.plan.shape[1], _COMPARED)
