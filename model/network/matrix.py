"""One matrix in the layout that its device multiplies fastest: `Matrix(weight)(x) == x @ weight`.

On a CPU, oneDNN wants the weight re-ordered into its own blocked layout; done once here instead of inside every
product, that is worth 2.5x at 64 rows in fp32 and up to 2x at few rows in bf16. A CPU older than AVX-512 has no bf16
of oneDNN: there such a product is torch's plain one.

There, a row's product is bit for bit the same whatever rows stand beside it: oneDNN adds up each output in an order
that does not depend on the number of rows, but for one row alone, which takes another kernel and so is doubled. Not so
with AMX, whose order of bfloat16 sums does depend on it: there the last bit may differ (ONEDNN_MAX_CPU_ISA=
AVX512_CORE_BF16 gives the same bits, more slowly).
"""

import torch
from torch import Tensor


class Matrix:
    """A constant right-hand side of products. Gradients do not flow through it."""

    def __init__(self, weight: Tensor, rows: int) -> None:
        """weight: (inputs, outputs); rows: the usual number of rows, which the packed layout is tuned for."""
        self._packed = weight.device.type == "cpu" and _packable(weight.dtype)
        transposed = weight.detach().t().contiguous()  # (outputs, inputs)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(transposed, rows) if self._packed else transposed

    @property
    def transposed(self) -> Tensor:
        """The weight in memory, (outputs, inputs). Raises TypeError where its layout is the device's own."""
        if self._packed:
            raise TypeError(f"a matrix on {self._weight.device.type} is packed and has no plain layout")
        return self._weight

    def __call__(self, x: Tensor) -> Tensor:
        """x: (rows, inputs) -> (rows, outputs), in the weight's dtype."""
        if not self._packed:
            return torch.nn.functional.linear(x, self._weight)
        if x.shape[0] == 1:
            return self(torch.cat((x, x)))[:1]
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
        return product

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """(x @ weight) * factor, rounded once where the device can. factor: (rows, outputs) in the weight's dtype."""
        if not self._packed:
            return self(x).mul_(factor)
        if x.shape[0] == 1:
            return self.times(torch.cat((x, x)), torch.cat((factor, factor)))[:1]
        product: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, factor, self._weight, None, "mul")
        return product


def _packable(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies it on this CPU."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32
