"""The element-wise parts of a training step of mLSTM and LSTM as one Triton kernel each, for CUDA.

They write what elementwise.py defines. torch.compile makes two kernels of `lstm` and of `lstm_adjoint`, because their
gates lie side by side in one tensor; a kernel more in each of 256 steps costs as much as a product of a small model.

A program makes `_LINE` units of one row. All tensors are contiguous; arithmetic is in float32.
"""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

_LINE = 1024  # units: four for each thread of eight warps, so that bfloat16 is read in pieces of eight bytes
_WARPS = 8


@triton.jit
def _place(byte, units: tl.constexpr, line: tl.constexpr):
    """Row and units of this program, which of them there are, and the row of a byte's table that is looked up."""
    row = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * line + tl.arange(0, line)
    return row, unit, unit < units, tl.load(byte + row)


@triton.jit
def _read(start, place, mask):
    return tl.load(start + place, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _write(start, place, value, mask):
    tl.store(start + place, value.to(start.dtype.element_ty), mask=mask)


@triton.jit
def _tanh(x):
    return 1 - 2 * tl.sigmoid(-2 * x)


@triton.jit
def _mix(product, table, byte, product_out, mixed_out, units: tl.constexpr, line: tl.constexpr):
    row, unit, mask, of_table = _place(byte, units, line)
    own = row * units + unit
    x = _read(product, own, mask)
    _write(product_out, own, x, mask)
    _write(mixed_out, own, x * _read(table, of_table * units + unit, mask), mask)


@triton.jit
def _mix_adjoint(
    d_mixed, product, table, byte, d_product_out, d_table_rows_out, units: tl.constexpr, line: tl.constexpr
):
    row, unit, mask, of_table = _place(byte, units, line)
    own = row * units + unit
    d = _read(d_mixed, own, mask)
    _write(d_product_out, own, d * _read(table, of_table * units + unit, mask), mask)
    _write(d_table_rows_out, own, d * _read(product, own, mask), mask)


@triton.jit
def _lstm(z, table, byte, cell, gates_out, cell_out, squashed_out, hidden_out, units: tl.constexpr, line: tl.constexpr):
    row, unit, mask, of_table = _place(byte, units, line)
    own, gate, x = row * units + unit, 4 * row * units + unit, 4 * of_table * units + unit
    i = tl.sigmoid(_read(z, gate, mask) + _read(table, x, mask))
    f = tl.sigmoid(_read(z, gate + units, mask) + _read(table, x + units, mask))
    o = tl.sigmoid(_read(z, gate + 2 * units, mask) + _read(table, x + 2 * units, mask))
    u = _tanh(_read(z, gate + 3 * units, mask) + _read(table, x + 3 * units, mask))
    new = f * _read(cell, own, mask) + i * u
    squashed = _tanh(new)
    _write(gates_out, gate, i, mask)
    _write(gates_out, gate + units, f, mask)
    _write(gates_out, gate + 2 * units, o, mask)
    _write(gates_out, gate + 3 * units, u, mask)
    _write(cell_out, own, new, mask)
    _write(squashed_out, own, squashed, mask)
    _write(hidden_out, own, o * squashed, mask)


@triton.jit
def _lstm_adjoint(
    d_hidden, d_hidden_later, d_cell, gates, cell_before, squashed, dz_out, units: tl.constexpr, line: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * line + tl.arange(0, line)
    mask = unit < units
    own, gate = row * units + unit, 4 * row * units + unit
    i, f = _read(gates, gate, mask), _read(gates, gate + units, mask)
    o, u = _read(gates, gate + 2 * units, mask), _read(gates, gate + 3 * units, mask)
    tanh_c = _read(squashed, own, mask)
    dh = _read(d_hidden, own, mask) + _read(d_hidden_later, own, mask)
    dc = _read(d_cell, own, mask) + dh * o * (1 - tanh_c * tanh_c)
    _write(dz_out, gate, dc * u * i * (1 - i), mask)
    _write(dz_out, gate + units, dc * _read(cell_before, own, mask) * f * (1 - f), mask)
    _write(dz_out, gate + 2 * units, dh * tanh_c * o * (1 - o), mask)
    _write(dz_out, gate + 3 * units, dc * i * (1 - u * u), mask)
    _write(d_cell, own, dc * f, mask)


def _launch(kernel, rows_of: Tensor, tensors: tuple[Tensor, ...]) -> None:
    """rows_of: a tensor (rows, units)."""
    rows, units = rows_of.shape
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError("a tensor is not contiguous")
    kernel[rows, triton.cdiv(units, _LINE)](*tensors, units, _LINE, num_warps=_WARPS)


def mix(*tensors: Tensor) -> None:
    """`mix` of elementwise.py."""
    _launch(_mix, tensors[0], tensors)


def mix_adjoint(*tensors: Tensor) -> None:
    """`mix_adjoint` of elementwise.py."""
    _launch(_mix_adjoint, tensors[0], tensors)


def lstm(*tensors: Tensor) -> None:
    """`lstm` of elementwise.py."""
    _launch(_lstm, tensors[3], tensors)


def lstm_adjoint(*tensors: Tensor) -> None:
    """`lstm_adjoint` of elementwise.py."""
    _launch(_lstm_adjoint, tensors[2], tensors)
