"""A packed matrix is the plain one, and gives a row the same product bit for bit in any company."""

from types import SimpleNamespace

import pytest
import torch

from model.network.matrix import Matrix, fast_dtype

INPUTS, OUTPUTS = 2048, 256


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rows_product_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(INPUTS, OUTPUTS, generator=generator)
    x, factor = (torch.randn(130, width, generator=generator).to(dtype) for width in (INPUTS, OUTPUTS))
    matrix = Matrix(weight.to(dtype), rows=64)
    whole, scaled = matrix(x), matrix.times(x, factor)
    exact = x.double() @ weight.to(dtype).double()
    tolerance = 1e-3 if dtype == torch.float32 else 1.0  # the products are of the size of 45
    torch.testing.assert_close(whole.double(), exact, rtol=0, atol=tolerance)
    torch.testing.assert_close(scaled.double(), exact * factor, rtol=0, atol=4 * tolerance)
    # With AMX, oneDNN adds up bfloat16 products in an order that depends on their number: the last bit may differ.
    same_bits = dtype == torch.float32 or not torch.cpu._is_amx_tile_supported()
    limits = {"rtol": 0.0, "atol": 0.0} if same_bits else {"rtol": 2**-7, "atol": 1e-2}
    for begin, end in [(0, 1), (77, 78), (129, 130), (5, 7), (3, 20), (0, 129)]:
        torch.testing.assert_close(matrix(x[begin:end]), whole[begin:end], **limits)
        torch.testing.assert_close(matrix.times(x[begin:end], factor[begin:end]), scaled[begin:end], **limits)


@pytest.mark.parametrize(("major", "fast"), [(7, torch.float32), (8, torch.bfloat16), (9, torch.bfloat16)])
def test_a_gpu_that_only_emulates_bfloat16_multiplies_in_float32(
    monkeypatch: pytest.MonkeyPatch, major: int, fast: torch.dtype
) -> None:
    """What torch says of a V100 (7.0), a T4 (7.5), an A100 (8.0) and an H100 (9.0), none of which is here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=major))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)
    assert fast_dtype(torch.device("cuda")) == fast
