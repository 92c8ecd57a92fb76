"""The element-wise parts of a step in training, forward and adjoint, each one kernel where it can be.

`Elementwise` holds them: plain torch, compiled by torch.compile, which writes C++ for a CPU and Triton for CUDA, or on
CUDA the kernels of triton_elementwise.py. They write into given tensors, which are slices of a window's buffers, so
that no step allocates memory.

Shapes: z, gates, dz (rows, gates * units); table a row per byte; byte (rows,) int64; all else (rows, units).
Arithmetic is in the cell's dtype, which the tensors that are saved for the backward pass need not have.
"""

import logging
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor

log = logging.getLogger(__name__)


def mix(product: Tensor, table: Tensor, byte: Tensor, product_out: Tensor, mixed_out: Tensor) -> None:
    """mLSTM: m = (x·Wmx) * (h·Wmh), and keeps h·Wmh."""
    product_out.copy_(product)
    mixed_out.copy_(product * table[byte])


def mix_adjoint(
    d_mixed: Tensor, product: Tensor, table: Tensor, byte: Tensor, d_product_out: Tensor, d_table_rows_out: Tensor
) -> None:
    d_product_out.copy_(d_mixed * table[byte])
    d_table_rows_out.copy_(d_mixed * product)


def lstm(
    z: Tensor,
    table: Tensor,
    byte: Tensor,
    cell: Tensor,
    gates_out: Tensor,
    cell_out: Tensor,
    squashed_out: Tensor,
    hidden_out: Tensor,
) -> None:
    """The gates of mLSTM and LSTM: from z without its input part to the next cell and hidden. squashed: tanh(c')."""
    exact = cell.dtype
    i, f, o, u = (z.to(exact) + table[byte].to(exact)).chunk(4, dim=1)
    i, f, o, u = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o), torch.tanh(u)
    new = f * cell + i * u
    squashed = torch.tanh(new)
    gates_out.copy_(torch.cat((i, f, o, u), dim=1))
    cell_out.copy_(new)
    squashed_out.copy_(squashed)
    hidden_out.copy_(o * squashed)


def lstm_adjoint(
    d_hidden: Tensor,
    d_hidden_later: Tensor,
    d_cell: Tensor,
    gates: Tensor,
    cell_before: Tensor,
    squashed: Tensor,
    dz_out: Tensor,
) -> None:
    """Turns d_cell into the gradient of the cell before. d_hidden: of the output; d_hidden_later: of the step after.

    do = dh*tanh(c');  dc = dc' + dh*o*(1 - tanh²c');  di = dc*u;  df = dc*c;  du = dc*i;  dc_before = dc*f
    dz = (di*i*(1-i), df*f*(1-f), do*o*(1-o), du*(1-u²))
    """
    exact = d_cell.dtype
    i, f, o, u = gates.to(exact).chunk(4, dim=1)
    tanh_c = squashed.to(exact)
    dh = d_hidden.to(exact) + d_hidden_later.to(exact)
    dc = d_cell + dh * o * (1 - tanh_c * tanh_c)
    di = dc * u * i * (1 - i)
    df = dc * cell_before * f * (1 - f)
    do = dh * tanh_c * o * (1 - o)
    du = dc * i * (1 - u * u)
    dz_out.copy_(torch.cat((di, df, do, du), dim=1))
    d_cell.copy_(dc * f)


def gru(
    product: Tensor,
    table: Tensor,
    byte: Tensor,
    state: Tensor,
    gates_out: Tensor,
    candidate_product_out: Tensor,
    state_out: Tensor,
    hidden_out: Tensor,
) -> None:
    """From h·Wh to the next state, in the cell's dtype and (hidden) in that of products."""
    exact = state.dtype
    xr, xz, xn = table[byte].to(exact).chunk(3, dim=1)
    hr, hz, hn = product.to(exact).chunk(3, dim=1)
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    n = torch.tanh(xn + r * hn)
    new = (1 - z) * n + z * state
    gates_out.copy_(torch.cat((r, z, n), dim=1))
    candidate_product_out.copy_(hn)
    state_out.copy_(new)
    hidden_out.copy_(new)


def gru_adjoint(
    d_hidden: Tensor,
    d_state: Tensor,
    gates: Tensor,
    candidate_product: Tensor,
    state_before: Tensor,
    dx_out: Tensor,
    d_product_out: Tensor,
) -> None:
    """Turns d_state into what reaches the state before without passing through h·Wh.

    dn = dh'*(1-z)*(1-n²);  dz = dh'*(h-n)*z*(1-z);  dr = dn*h·Wh_n*r*(1-r);  dh = dh'*z + (dr, dz, dn*r)·Whᵀ
    """
    exact = d_state.dtype
    r, z, n = gates.to(exact).chunk(3, dim=1)
    dh = d_hidden.to(exact) + d_state
    dn = dh * (1 - z) * (1 - n * n)
    dz = dh * (state_before - n) * z * (1 - z)
    dr = dn * candidate_product.to(exact) * r * (1 - r)
    dx_out.copy_(torch.cat((dr, dz, dn), dim=1))
    d_product_out.copy_(torch.cat((dr, dz, dn * r), dim=1))
    d_state.copy_(dh * z)


class Elementwise:
    """The functions above, each as one kernel where that is possible: see `_Fused`."""

    def __init__(self, fuse: bool, triton: bool = True) -> None:
        """fuse: compile them, which takes seconds, once. triton: on CUDA, prefer our own kernels to torch.compile's."""

        def prepared(function: Callable[..., None]) -> Callable[..., None]:
            return _Fused(function, triton) if fuse else function

        self.mix, self.mix_adjoint = prepared(mix), prepared(mix_adjoint)
        self.lstm, self.lstm_adjoint = prepared(lstm), prepared(lstm_adjoint)
        self.gru, self.gru_adjoint = prepared(gru), prepared(gru_adjoint)


class _Fused:
    """The fastest form of a function that works here: the Triton kernel, what torch.compile makes of it, or itself.

    Which one is found when it is first called, before anything was computed; a form that fails is logged.
    """

    def __init__(self, function: Callable[..., None], triton: bool) -> None:
        self._plain = function
        self._triton = triton
        self._run: Callable[..., None] | None = None

    def __call__(self, *tensors: Tensor) -> None:
        if self._run is not None:
            self._run_again(*tensors)
            return
        for form in self._forms(tensors[0].device):
            try:
                form(*tensors)
            except Exception as error:
                if form is self._plain:
                    raise
                self._warn(error)  # there may be no compiler, no room, or too old a driver
            else:
                self._run = form
                return

    def _run_again(self, *tensors: Tensor) -> None:
        try:
            (self._run or self._plain)(*tensors)
        except Exception as error:
            from torch._dynamo.exc import BackendCompilerFailed  # noqa: PLC0415 - takes a second to load

            # Of tensors of another shape, before anything was computed.
            if not isinstance(error, BackendCompilerFailed):
                raise
            self._warn(error)
            self._run = self._plain
            self._plain(*tensors)

    def _warn(self, error: Exception) -> None:
        reason = str(error).partition("\n")[0]
        log.warning("%s is not fused in the fastest way, which makes training slower: %s", self._plain.__name__, reason)

    def _forms(self, device: torch.device) -> Iterator[Callable[..., None]]:
        if self._triton and device.type == "cuda" and find_spec("triton") is not None:
            from model.network import triton_elementwise  # noqa: PLC0415 - CUDA builds of torch alone bring Triton

            kernel: Callable[..., None] | None = getattr(triton_elementwise, self._plain.__name__, None)
            if kernel is not None:
                yield kernel
        yield torch.compile(self._plain, dynamic=False)
        yield self._plain
