"""`neuron bench engine` writes what it says, and what it measures against computes the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.plain_loop import PlainLoop
from cli.main import main
from engine.folded import FoldedModel
from engine.reading import read_features
from model.network.language_model import Architecture, LanguageModel


def test_the_plain_loop_reads_what_the_engine_reads() -> None:
    model = LanguageModel(Architecture("mlstm", 24, 6))
    model.reset(torch.Generator().manual_seed(0), embedding_std=1.0)
    texts = [b"x" * length + b" and so on" for length in (30, 0, 7, 250)]
    found = PlainLoop(model).read_texts(texts).numpy()
    assert np.abs(found).max() > 0.1
    np.testing.assert_allclose(found, read_features(FoldedModel(model, dtype=torch.float32), texts), rtol=0, atol=1e-5)


def test_the_figures_hang_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.engine._LEAST_S", 0.02)
    path, texts = tmp_path / "figures" / "engine.json", tmp_path / "texts.csv"
    texts.write_text("label,sentence\n" + "".join(f'{n % 2},"sentence, {n}"\n' for n in range(20)))
    sizes = ["--units", "32", "--units", "64", "--rows", "1", "--rows", "6", "--rounds", "1", "--device", "cpu"]
    files = ["--texts", str(texts), "--limit", "15", "--json", str(path)]
    run = CliRunner().invoke(main, ["bench", "engine", *sizes, *files])
    assert run.exit_code == 0, run.output
    found = json.loads(path.read_text())
    assert [(figures["units"], figures["rows"]) for figures in found["steps"]] == [(32, 1), (32, 6), (64, 1), (64, 6)]
    for figures in found["steps"]:
        rate = figures["engine_bytes_per_s"]
        assert rate > 0
        assert figures["share_of_ceiling"] == pytest.approx(rate / figures["ceiling_bytes_per_s"])
        assert figures["ratio_vs_plain"] == pytest.approx(rate / figures["plain_bytes_per_s"])
    read = found["texts"]
    assert (read["texts"], read["units"]) == (15, 32)
    assert read["bytes"] == sum(len(f"\n sentence, {n} ") for n in range(15))
    assert read["ratio_vs_plain"] == pytest.approx(read["engine_bytes_per_s"] / read["plain_bytes_per_s"])
    assert {"cpu", "cores", "threads", "torch", "commit"} <= found["machine"].keys()
    assert "texts.csv: 15 texts" in run.stdout
