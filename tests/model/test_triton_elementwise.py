"""The Triton kernels of a training step write what the plain functions do: on a GPU, or interpreted."""

import os
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from model.network import elementwise

RUNS = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(
    not RUNS or find_spec("triton") is None, reason="needs Triton, and a GPU or TRITON_INTERPRET=1"
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 7), (3, 33), (5, 1024), (2, 1500), (17, 64)]
LOW = [torch.float32, torch.bfloat16]


def tensors(rows: int, units: int, low: torch.dtype) -> dict[str, Tensor]:
    """Arguments by name, of all four functions; those that are written hold NaN."""
    generator = torch.Generator().manual_seed(rows * units)

    def normal(width: int, dtype: torch.dtype, count: int = rows) -> Tensor:
        return torch.randn(count, width * units, generator=generator).to(dtype)

    def empty(width: int, dtype: torch.dtype) -> Tensor:
        return torch.full((rows, width * units), torch.nan, dtype=dtype)

    made = {
        "z": normal(4, low),
        "table": normal(1, low, 256),
        "gate_table": normal(4, low, 256),
        "byte": torch.randint(0, 256, (rows,), generator=generator),
        **{name: normal(1, low) for name in ("product", "d_mixed", "d_hidden", "d_hidden_later")},
        **{name: normal(1, torch.float32) for name in ("cell", "d_cell")},
        "gates": normal(4, low).sigmoid(),
        "squashed": normal(1, low).tanh(),
        **{name: empty(4, low) for name in ("gates_out", "dz_out")},
        **{name: empty(1, low) for name in ("product_out", "mixed_out", "d_product_out", "d_table_rows_out")},
        **{name: empty(1, low) for name in ("squashed_out", "hidden_out")},
        "cell_out": empty(1, torch.float32),
    }
    return {name: value.to(DEVICE) for name, value in made.items()}


FUNCTIONS = {
    "mix": ("product", "table", "byte", "product_out", "mixed_out"),
    "mix_adjoint": ("d_mixed", "product", "table", "byte", "d_product_out", "d_table_rows_out"),
    "lstm": ("z", "gate_table", "byte", "cell", "gates_out", "cell_out", "squashed_out", "hidden_out"),
    "lstm_adjoint": ("d_hidden", "d_hidden_later", "d_cell", "gates", "cell", "squashed", "dz_out"),
}


@pytest.mark.parametrize("low", LOW, ids=str)
@pytest.mark.parametrize(("rows", "units"), SHAPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_kernel_writes_what_its_function_does(name: str, rows: int, units: int, low: torch.dtype) -> None:
    from model.network import triton_elementwise  # noqa: PLC0415 - needs Triton

    ours, plain = tensors(rows, units, low), tensors(rows, units, low)
    getattr(triton_elementwise, name)(*(ours[argument] for argument in FUNCTIONS[name]))
    getattr(elementwise, name)(*(plain[argument] for argument in FUNCTIONS[name]))
    tolerance = 1e-5 if low == torch.float32 else 0.02
    for argument in FUNCTIONS[name]:
        torch.testing.assert_close(ours[argument], plain[argument], rtol=tolerance, atol=tolerance, msg=argument)


def test_a_tensor_with_gaps_is_refused() -> None:
    from model.network import triton_elementwise  # noqa: PLC0415 - needs Triton

    given = tensors(4, 64, torch.float32)
    given["product"] = given["z"][:, :64]
    with pytest.raises(ValueError, match="not contiguous"):
        triton_elementwise.mix(*(given[argument] for argument in FUNCTIONS["mix"]))
