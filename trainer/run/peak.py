"""The rate at which a device multiplies matrices, measured: what model FLOP utilisation (MFU) is a share of."""

import time

import torch

from model.network.matrix import Matrix

_MEASURED_S = 0.1
_MOST_ROWS = {"cpu": 1024, "cuda": 8192}  # enough to come near the peak


def measured_peak_flops(device: torch.device, dtype: torch.dtype, rows: int, units: int, outputs: int) -> float:
    """FLOP/s of (rows, units) times (units, outputs), the best of what fits into a tenth of a second."""
    rows = min(rows, _MOST_ROWS[device.type])
    generator = torch.Generator(device).manual_seed(0)  # not zeros: a GPU multiplies those faster
    x = torch.randn(rows, units, device=device, generator=generator).to(dtype)
    matrix = Matrix(torch.randn(units, outputs, device=device, generator=generator).to(dtype), rows)
    best_s, spent_s = float("inf"), 0.0
    with torch.no_grad():
        matrix(x)
        while spent_s < _MEASURED_S:
            finish(device)
            began = time.perf_counter()
            matrix(x)
            finish(device)
            took_s = time.perf_counter() - began
            best_s, spent_s = min(best_s, took_s), spent_s + took_s
    return 2.0 * rows * units * outputs / best_s


def finish(device: torch.device) -> None:
    """Wait for what the device has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
