"""`neuron bench training` writes what it says, and its ratios follow from its rates."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_figures_hang_together(tmp_path: Path) -> None:
    path = tmp_path / "figures" / "training.json"
    arguments = ["--units", "32", "--lanes", "4", "--window", "8", "--segment", "3", "--rounds", "1"]
    run = subprocess.run(
        [sys.executable, "-m", "cli.main", "bench", "training", *arguments, "--device", "cpu", "--json", str(path)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(path.read_text())
    assert (found["units"], found["lanes"], found["window"], found["segment"]) == (32, 4, 8, 3)
    assert found["ratio_vs_plain"] == pytest.approx(found["bytes_per_s"] / found["plain_bytes_per_s"])
    # Embedding 256 x 64; Wx 64 x 128, Wh 32 x 128, b, two gains of 128; Wmx 64 x 32, Wmh 32 x 32, two gains of 32;
    # output 32 x 256 and 256.
    assert found["parameters"] == 16384 + 8192 + 4096 + 3 * 128 + 2048 + 1024 + 2 * 32 + 8192 + 256
    assert found["share_of_matmul"] == pytest.approx(
        6 * found["parameters"] * found["bytes_per_s"] / found["matmul_flops"]
    )
    assert {"cpu", "cores", "threads", "torch", "commit"} <= found["machine"].keys()
    assert f"{found['bytes_per_s']:,.0f} bytes/s" in run.stdout
    assert found["peers_bytes_per_s"].keys() == {"torch.nn.LSTM"}
    assert f"torch.nn.LSTM {found['peers_bytes_per_s']['torch.nn.LSTM']:21,.0f} bytes/s" in run.stdout
